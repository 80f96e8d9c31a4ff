//! The style as a test: what a reader may rely on everywhere, and no compiler checks.
//!
//! Each check collects everything that is wrong, as `file:line: what`, and fails once with all of it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What each module of `src/` may know: itself and these. Arrows run one way, in the order of `src/lib.rs`; a new
/// module gets a line here.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("frame", &[]),
    ("config", &["frame"]),
    ("source", &["config", "frame", "mouse"]),
    ("register", &["config", "frame"]),
    ("sample", &["config", "frame"]),
    ("activity", &["config", "frame"]),
    ("decode", &["config", "frame"]),
    ("task", &["config", "frame"]),
    ("trigger", &["config", "frame"]),
    ("proto", &[]),
    // The shape of a stream is made of its header: the one thing that the engine knows of the protocol.
    ("engine", &["config", "frame", "proto", "register", "sample", "activity", "decode", "task", "trigger"]),
    // Images that a session begins with come from files, and into the head of its journal.
    (
        "journal",
        &[
            "config", "frame", "source", "proto", "register", "sample", "activity", "decode", "task", "trigger",
            "engine",
        ],
    ),
    ("mouse", &["config", "frame"]),
    ("report", &["frame"]),
    ("export", ABOVE),
    ("study", ABOVE),
    (
        "service",
        &["config", "frame", "source", "proto", "register", "sample", "task", "trigger", "engine", "journal", "export"],
    ),
    ("cli", &["*"]),
];

/// What stands above the journal and beside the service.
const ABOVE: &[&str] = &[
    "config", "frame", "source", "proto", "register", "sample", "activity", "decode", "task", "trigger", "engine",
    "journal", "mouse", "report",
];

/// The stages, in the order in which a frame meets them.
const STAGES: [&str; 6] = ["register", "sample", "activity", "decode", "task", "trigger"];

/// The stated exception: calibration runs the activity's and the decoder's pure arithmetic on a whole baseline, so that
/// a session and the command line calibrate with the very code that the task runs on.
const EXCEPTIONS: &[(&str, &[&str])] = &[("src/task/calibration.rs", &["activity", "decode"])];

/// Uses of `.unwrap()` and `.expect("..")` in `src/` outside tests. This number may only fall.
const UNWRAPS_MAX: usize = 1;

const LINE_CHARS_MAX: usize = 120;
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A file of the tree: its path from the root, with `/`, and its text.
struct Source {
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file under `folder` whose name ends in one of `endings`, in the order of their names.
fn sources(folder: &str, endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join(folder), endings, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(at: &Path, endings: &[&str], found: &mut Vec<Source>) {
    let Ok(entries) = std::fs::read_dir(at) else { return };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && !["target", "node_modules", "__pycache__", "sessions"].contains(&name.as_str())
            {
                collect(&path, endings, found);
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let short = path.strip_prefix(root()).expect("it was found under the root");
            found.push(Source { path: short.to_string_lossy().replace('\\', "/"), text });
        }
    }
}

/// The lines of the program itself, numbered from 1: no comments, nothing under `#[cfg(test)]`. Relies on rustfmt,
/// which closes an item at the indentation where it began.
fn program_lines(source: &Source) -> Vec<(usize, &str)> {
    if source.path.ends_with("tests.rs") {
        return Vec::new();
    }
    let mut kept = Vec::new();
    let mut lines = source.text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let code = line.trim_start();
        if code == "#[cfg(test)]" {
            let indent = &line[..line.len() - code.len()];
            let last = |l: &str| {
                l.strip_prefix(indent)
                    .is_some_and(|rest| rest == "}" || !rest.starts_with([' ', '#']) && rest.ends_with(';'))
            };
            for (_, skipped) in lines.by_ref() {
                if last(skipped) {
                    break;
                }
            }
        } else if !code.starts_with("//") {
            kept.push((index + 1, line));
        }
    }
    kept
}

/// Fails with everything that is wrong.
fn none_of(wrong: &[String], what: &str) {
    assert!(wrong.is_empty(), "{what}:\n  {}\n", wrong.join("\n  "));
}

/// The module of `src/` that a file belongs to; `None` for `lib.rs` and `main.rs`.
fn module_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("src/")?;
    let module = rest.split('/').next()?.trim_end_matches(".rs");
    (!["lib", "main"].contains(&module)).then_some(module)
}

/// The modules of the crate that a line of code names: `crate::decode::..`, `crate::{decode, task}`, and
/// `super::decode` where `super` is the crate.
fn named_modules(path: &str, line: &str) -> Vec<String> {
    let depth = path.matches('/').count() - usize::from(path.ends_with("/mod.rs"));
    let root = "super::".repeat(depth);
    let mut named = Vec::new();
    for prefix in ["crate::", &root] {
        for (at, _) in line.match_indices(prefix) {
            let before = line[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let rest = &line[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(list) => named.extend(list.split(',').map(first_word)),
                None => named.push(first_word(rest)),
            }
        }
    }
    named.retain(|name| MAY_KNOW.iter().any(|(module, _)| module == name));
    named
}

fn first_word(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn the_arrows_run_one_way() {
    let mut wrong = Vec::new();
    let mut used = Vec::new();
    for source in sources("src", &[".rs"]) {
        let Some(module) = module_of(&source.path) else { continue };
        let Some((_, known)) = MAY_KNOW.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{}:1: module {module} has no line in MAY_KNOW of tests/tidy.rs", source.path));
            continue;
        };
        let excepted = EXCEPTIONS.iter().find(|(path, _)| *path == source.path).map_or(&[][..], |(_, names)| names);
        for (number, line) in program_lines(&source) {
            for name in named_modules(&source.path, line) {
                if excepted.contains(&name.as_str()) {
                    used.push((source.path.clone(), name));
                } else if name != module && !known.contains(&name.as_str()) && known != &["*"] {
                    wrong.push(format!("{}:{number}: {module} knows {name}, expected only {known:?}", source.path));
                }
            }
        }
    }
    for (path, names) in EXCEPTIONS {
        for name in names.iter().filter(|n| !used.iter().any(|(p, u)| p == path && u == *n)) {
            wrong.push(format!("{path}:1: the exception for {name} is not needed any more"));
        }
    }
    none_of(&wrong, "modules that know what they must not");
}

#[test]
fn the_engine_knows_every_stage() {
    let named: Vec<String> = sources("src/engine", &[".rs"])
        .iter()
        .flat_map(|s| {
            program_lines(s).into_iter().flat_map(|(_, line)| named_modules(&s.path, line)).collect::<Vec<_>>()
        })
        .collect();
    let missing: Vec<_> = STAGES.iter().filter(|stage| !named.iter().any(|name| name == *stage)).collect();
    assert!(missing.is_empty(), "src/engine:1: calls no {missing:?}");
}

#[test]
fn what_decides_waits_for_nobody_and_computes_the_same_everywhere() {
    // In stages and engine: no runtime, no order or rounding that another machine would choose otherwise.
    let foreign = [
        "tokio",
        "tonic::",
        "prost",
        ".await",
        "async fn",
        "tracing::",
        "HashMap",
        "HashSet",
        "std::env",
        "std::net",
        "mul_add(",
        ".exp(",
        ".exp2(",
        ".ln(",
        ".log2(",
        ".log10(",
        ".powf(",
        ".powi(",
        ".sin(",
        ".cos(",
        ".tan(",
        ".atan2(",
        ".tanh(",
        ".sin_cos(",
        ".cbrt(",
        ".hypot(",
    ];
    let mut wrong = Vec::new();
    for folder in STAGES.iter().chain(&["frame", "engine"]) {
        for source in sources(&format!("src/{folder}"), &[".rs"]) {
            for (number, line) in program_lines(&source) {
                for word in foreign.iter().filter(|word| line.contains(**word)) {
                    wrong.push(format!("{}:{number}: {word}", source.path));
                }
            }
        }
    }
    none_of(&wrong, "words that have no place in stages and engine");
}

#[test]
fn everything_in_the_protocol_has_a_comment() {
    let files = sources("proto", &[".proto"]);
    assert!(!files.is_empty(), "proto:1: no .proto file found");
    let mut wrong = Vec::new();
    let mut fields = 0;
    for file in &files {
        let mut above = "";
        for (index, line) in file.text.lines().enumerate() {
            let line = line.trim();
            let (code, comment) = line.split_once("//").map_or((line, ""), |(code, comment)| (code.trim(), comment));
            let statement = code.trim_end_matches(';');
            let is_field = code.ends_with(';') && {
                let number = statement.split('[').next().and_then(|s| s.rsplit('=').next()).map(str::trim);
                statement.contains('=') && number.is_some_and(|n| n.parse::<u32>().is_ok())
            };
            let opens = ["message ", "enum ", "service ", "rpc ", "oneof "].iter().any(|word| code.starts_with(word));
            let said = |text: &str| text.trim_start_matches('/').trim().chars().any(char::is_alphanumeric);
            if is_field || opens {
                fields += usize::from(is_field);
                if !said(above) && !said(comment) {
                    wrong.push(format!("{}:{}: {code}", file.path, index + 1));
                }
            }
            above = if line.starts_with("//") { line } else { "" };
        }
    }
    assert!(fields > 100, "proto:1: only {fields} fields were recognised, so this check sees nothing");
    none_of(&wrong, "declarations without a comment that says what they are");
}

#[test]
fn nothing_is_left_over() {
    let left = [concat!("db", "g!("), concat!("to", "do!("), concat!("unimpl", "emented!(")];
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let mut wrong = Vec::new();
    for source in sources("", &[".rs", ".proto", ".py", ".toml", ".sh", ".m"]) {
        for (index, line) in source.text.lines().enumerate() {
            for word in left.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("{}:{}: {word}", source.path, index + 1));
            }
            // A note that names its issue is not bare.
            for word in notes.iter().filter(|word| line.contains(**word) && !line.contains(&format!("{word}(#"))) {
                wrong.push(format!("{}:{}: {word} without an issue, expected {word}(#number)", source.path, index + 1));
            }
        }
    }
    none_of(&wrong, "left over");
}

#[test]
fn no_line_is_longer_than_120_characters() {
    let mut wrong = Vec::new();
    for source in sources("", &[".rs"]) {
        for (index, line) in source.text.lines().enumerate() {
            let chars = line.chars().count();
            if chars > LINE_CHARS_MAX {
                wrong.push(format!("{}:{}: {chars} characters", source.path, index + 1));
            }
        }
    }
    none_of(&wrong, "lines that are too long");
}

#[test]
fn no_large_file_is_in_the_tree() {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let Some(listed) = listed.ok().filter(|o| o.status.success()) else {
        println!("skipped: {} is no git checkout", root().display());
        return;
    };
    let wrong: Vec<String> = listed
        .stdout
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| PathBuf::from(String::from_utf8_lossy(name).into_owned()))
        .filter_map(|path| Some((std::fs::metadata(root().join(&path)).ok()?.len(), path)))
        .filter(|(bytes, _)| *bytes > FILE_BYTES_MAX)
        .map(|(bytes, path)| format!("{}:1: {bytes} bytes, expected at most {FILE_BYTES_MAX}", path.display()))
        .collect();
    none_of(&wrong, "files that are too large for the tree");
}

#[test]
fn unwraps_outside_tests_only_become_fewer() {
    let mut found = Vec::new();
    for source in sources("src", &[".rs"]) {
        for (number, line) in program_lines(&source) {
            let uses = line.matches(".unwrap()").count()
                + line.matches(".expect(\"").count()
                + usize::from(line.trim_end().ends_with(".expect("));
            found.extend((0..uses).map(|_| format!("{}:{number}: {}", source.path, line.trim())));
        }
    }
    let list = found.join("\n  ");
    assert!(found.len() <= UNWRAPS_MAX, "{} unwraps, expected at most {UNWRAPS_MAX}:\n  {list}\n", found.len());
    let wasted = "lower UNWRAPS_MAX in tests/tidy.rs";
    assert!(found.len() == UNWRAPS_MAX, "only {} unwraps are left: {wasted}\n  {list}\n", found.len());
}

/// What `apical ARGUMENTS --help` prints, or nothing where there is no such command.
fn help(arguments: &[&str]) -> Option<String> {
    let asked = Command::new(env!("CARGO_BIN_EXE_apical")).args(arguments).arg("--help").output().expect("apical runs");
    asked.status.success().then(|| String::from_utf8_lossy(&asked.stdout).into_owned())
}

/// The arguments of `apical` in a line of shell, if it calls it.
fn apical_arguments(line: &str) -> Option<Vec<&str>> {
    let words: Vec<&str> = line.split_whitespace().take_while(|word| !word.starts_with(['#', '|', '>', '&'])).collect();
    let first = *words.first()?;
    let start = match first {
        "cargo" if words.get(1) == Some(&"run") => words.iter().position(|word| *word == "--")?,
        _ if first == "apical" || first.ends_with("/apical") => 0,
        _ => return None,
    };
    Some(words[start + 1..].to_vec())
}

#[test]
fn the_commands_in_the_documents_exist() {
    let mut documents = sources("docs", &[".md"]);
    for name in ["README.md", "ARCHITECTURE.md"] {
        let text = std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}:1: {e}"));
        documents.push(Source { path: name.to_owned(), text });
    }
    let (mut wrong, mut calls) = (Vec::new(), 0);
    for document in &documents {
        let mut in_shell = false;
        for (index, line) in document.text.lines().enumerate() {
            let fence = line.trim_start().strip_prefix("```");
            if let Some(language) = fence {
                in_shell = !in_shell && ["sh", "bash", "console"].contains(&language.trim());
                continue;
            }
            let Some(arguments) = in_shell.then(|| apical_arguments(line)).flatten() else { continue };
            calls += 1;
            let at = format!("{}:{}", document.path, index + 1);
            let Some(command) = arguments.first() else { continue };
            // A second word is a command below the first (`rois show`), or a file, which help does not mind.
            let words = arguments.iter().take(2).take_while(|word| !word.starts_with("--")).copied();
            let Some(help) = help(&words.collect::<Vec<_>>()) else {
                wrong.push(format!("{at}: apical has no command {command:?}"));
                continue;
            };
            for option in arguments.iter().filter(|word| word.starts_with("--")) {
                let option = option.split('=').next().unwrap_or_default();
                if !help.split([' ', ',', '\n']).any(|word| word == option) {
                    wrong.push(format!("{at}: apical {command} has no {option}"));
                }
            }
            let ours = |word: &&&str| word.starts_with("deploy/") || word.starts_with("docs/");
            for file in arguments.iter().filter(ours).filter(|file| !root().join(file).exists()) {
                wrong.push(format!("{at}: there is no {file}"));
            }
        }
    }
    assert!(calls > 5, "README.md:1: only {calls} calls of apical were recognised, so this check sees nothing");
    none_of(&wrong, "commands that do not exist");
}
