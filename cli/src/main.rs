//! The program.

fn main() -> std::process::ExitCode {
    match rgraph_cli::args::parse(std::env::args_os()) {
        Ok(_) => std::process::ExitCode::FAILURE,
        Err(e) => {
            let _ = e.print();
            std::process::ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2))
        }
    }
}
