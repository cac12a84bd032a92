//! The server binary; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mstunnel_server::cli::main()
}
