//! The administrator's tool; everything it does is `mstunnel_server::admin`.

use std::io;
use std::process::ExitCode;

use mstunnel_server::admin;

fn main() -> ExitCode {
    admin::run(std::env::args_os(), admin::check_file, &mut io::stdout().lock(), &mut io::stderr()).into()
}
