//! The same bits whatever code the C library chooses: sessions of one choice, recomputed under another.
#![cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]

mod common;

use std::path::Path;
use std::process::Command;

use common::record::recorded;
use common::{FRAMES, config};

/// Hides the wide vector units from the C library, which then takes other code for its mathematics and its copies.
const HIDDEN: &str = "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX,-AVX512F,-AVX512VL,-ERMS,-FSRM,-SSE4_2,-AVX2_Usable,-FMA_Usable";

fn apical(arguments: &[&str], directories: &[&Path], hidden: bool) -> serde_json::Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apical"));
    command.arg("--json").args(arguments).args(directories);
    if hidden {
        command.env("GLIBC_TUNABLES", HIDDEN);
    }
    let output = command.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn a_session_is_recomputed_when_the_c_library_chooses_other_code() {
    let folder = tempfile::tempdir().expect("a directory");
    let session = recorded(folder.path(), "session", &config(&["record.frames=\"all\""]), FRAMES);
    let report = apical(&["verify"], &[&session], true);
    assert_eq!((&report["differences"], &report["damage"]), (&0.into(), &serde_json::json!([])), "{report}");
    assert_eq!(report["frames_from_pixels"], report["frames_compared"]);

    let again = folder.path().join("again");
    apical(&["replay", "--session-dir", &again.display().to_string()], &[&session], true);
    let report = apical(&["verify"], &[&again], false);
    assert_eq!((&report["differences"], &report["damage"]), (&0.into(), &serde_json::json!([])), "{report}");
    let differences = apical(&["diff"], &[&session, &again], false);
    assert!(differences["first"].is_null(), "{differences}");
}
