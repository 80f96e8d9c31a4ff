//! Compiles the protocol buffers without `protoc`, and keeps the descriptor set for reflection and the journal.

use prost::Message as _;

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
    tonic_prost_build::configure().bytes(".apical.v1.Frame.pixels").compile_fds(set)?;
    commit();
    Ok(())
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
