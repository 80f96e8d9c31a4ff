//! A session as Python reads it, with `mcap` and `mcap-protobuf-support`: the numbers of `apical export`, and the
//! pixels that went in. Runs with the interpreter that APICAL_PYTHON names, or `python3`; without the packages it says
//! so.

mod common;

use std::fmt::Write as _;
use std::process::Command;

use apical::export::write_tables;
use common::record::recorded;
use common::{FRAMES, config, frames};
use sha2::Digest;

#[test]
fn python_reads_the_numbers_of_the_tables_and_the_pixels_of_the_frames() {
    let python = std::env::var("APICAL_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&python).args(["-c", "import mcap, mcap_protobuf, numpy"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        assert!(
            std::env::var_os("APICAL_PYTHON").is_none(),
            "APICAL_PYTHON={python} lacks mcap or its protobuf support"
        );
        println!("skipped: python3 with mcap, mcap-protobuf-support and numpy is not here");
        return;
    }
    let folder = tempfile::tempdir().expect("a directory");
    let config = config(&["record.frames=\"all\"", "record.sync_interval_ms=5"]);
    let session = recorded(folder.path(), "session", &config, FRAMES);
    let tables = folder.path().join("tables");
    write_tables(&session, &tables).expect("tables");
    // What the script sends: all but a missing one and a run of skipped ones, and one of them twice.
    let (_, slots) = frames(&config, FRAMES);
    let mut hashes = String::new();
    for slot in slots.iter().filter(|s| s.meta.index != 400 && !(420..425).contains(&s.meta.index)) {
        let bytes: Vec<u8> = slot.samples().iter().flat_map(|&v| i32::from(v).to_le_bytes()).collect();
        let digest = sha2::Sha256::digest(&bytes);
        let hex = digest.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let _ = writeln!(hashes, "{} {hex}", slot.meta.index);
    }
    let expected = folder.path().join("hashes.txt");
    std::fs::write(&expected, hashes).expect("written");
    let test = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python/tests/test_record.py");
    let status = Command::new(&python)
        .arg(test)
        .args([&session, &tables, &expected])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .status();
    assert!(status.is_ok_and(|status| status.success()), "what Python said is above");
}
