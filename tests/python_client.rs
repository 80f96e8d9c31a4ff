//! The Python client's test, against this build of the service: a real client of another language over a real socket.
//!
//! Runs with the interpreter that APICAL_PYTHON names, or `python3`; without grpcio, grpcio-tools and numpy there it
//! says so and passes.

mod outside;

use std::process::Command;

#[test]
fn the_python_client_works_against_the_service() {
    let Some(python) = outside::python("grpc, grpc_tools, numpy") else { return };
    let test = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python/tests/test_client.py");
    let status = Command::new(python)
        .arg(test)
        .env("APICAL_BIN", env!("CARGO_BIN_EXE_apical"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .status();
    assert!(status.is_ok_and(|status| status.success()), "the Python test failed; what it said is above");
}
