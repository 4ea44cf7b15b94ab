//! Parses, runs, prints the error chain, and exits with the code that says why.

use std::io::IsTerminal;
use std::process::ExitCode;

use zotune::cli::Cli;
use zotune::error::exit_code;
use zotune::memory::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    let cli = Cli::from_args(std::env::args());
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => "error",
        (_, true) => "zotune=debug,info",
        _ => "info",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .without_time()
        .with_target(false)
        .with_level(cli.verbose)
        .init();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.chain().skip(1).for_each(|cause| eprintln!("  {cause}"));
            ExitCode::from(exit_code(&error))
        }
    }
}
