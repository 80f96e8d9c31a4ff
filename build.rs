//! Compiles the protocol buffers without `protoc`, and keeps the descriptor set for reflection and the journal.

use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = [
        "apical/v1/ingest.proto",
        "apical/v1/session.proto",
        "apical/v1/feedback.proto",
        "apical/v1/events.proto",
        "apical/v1/activity.proto",
        "apical/v1/journal.proto",
    ];
    let set = protox::compile(files, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("apical.bin"), set.encode_to_vec())?;
    for message in JOURNAL_MESSAGES {
        std::fs::write(out.join(format!("{message}.bin")), schema(&set, message).encode_to_vec())?;
    }
    tonic_prost_build::configure()
        .bytes(".apical.v1.Frame.pixels")
        .bytes(".apical.v1.SnapshotRecord.state")
        .compile_fds(set)?;
    commit();
    Ok(())
}

/// The messages that a journal and a file of pixels hold.
const JOURNAL_MESSAGES: [&str; 11] = [
    "SessionHead",
    "InputRecord",
    "DecisionRecord",
    "TimingRecord",
    "CommandRecord",
    "SubscribeEventsResponse",
    "SnapshotRecord",
    "LatencyRecord",
    "HealthRecord",
    "LossRecord",
    "FrameRecord",
];

/// The descriptors that one message needs, and nothing else: a journal carries them for every topic, twice.
fn schema(set: &FileDescriptorSet, message: &str) -> FileDescriptorSet {
    let mut needed = vec![format!(".apical.v1.{message}")];
    let mut at = 0;
    while let Some(name) = needed.get(at).cloned() {
        at += 1;
        let mut messages = set.file.iter().flat_map(|file| &file.message_type);
        let found = messages.find(|m| format!(".apical.v1.{}", m.name()) == name);
        for field in found.into_iter().flat_map(|m| &m.field) {
            if !field.type_name().is_empty() && !needed.iter().any(|n| n == field.type_name()) {
                needed.push(field.type_name().to_owned());
            }
        }
    }
    let is_needed = |name: &str| needed.iter().any(|n| n == &format!(".apical.v1.{name}"));
    let mut files: Vec<FileDescriptorProto> = set.file.clone();
    for file in &mut files {
        file.service.clear();
        file.source_code_info = None;
        file.message_type.retain(|m| is_needed(m.name()));
        file.enum_type.retain(|e| is_needed(e.name()));
    }
    files.retain(|file| !(file.message_type.is_empty() && file.enum_type.is_empty()));
    let names: Vec<String> = files.iter().map(|file| file.name().to_owned()).collect();
    for file in &mut files {
        file.dependency.retain(|name| names.contains(name));
    }
    FileDescriptorSet { file: files }
}

/// The commit that this was built from, for the head of every journal; "unknown" outside a checkout.
fn commit() {
    let asked = std::process::Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let commit = match asked {
        Ok(o) if o.status.success() => String::from_utf8_lossy(&o.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    };
    // In a worktree the log lies elsewhere; a path that is not there would have everything built again every time.
    let log = std::process::Command::new("git").args(["rev-parse", "--git-path", "logs/HEAD"]).output();
    let log = log.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    if std::path::Path::new(&log).is_file() {
        println!("cargo::rerun-if-changed={log}");
    }
    println!("cargo::rustc-env=APICAL_COMMIT={commit}");
}
