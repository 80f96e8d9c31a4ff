//! The `apical` program; everything is in the library.

fn main() -> std::process::ExitCode {
    apical::cli::main()
}
