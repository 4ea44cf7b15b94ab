//! Parses, runs, prints the error chain, and exits with the code that says why.

use std::io::Write;
use std::process::ExitCode;

use tracing::Level;
use tracing_subscriber::fmt::writer::MakeWriterExt;
use zotune::base::errors::{Interrupted, exit_code};
use zotune::base::memory::Counting;
use zotune::base::text::{Plain, bounded};
use zotune::cli::{Cli, WithFlags, with_flags};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    // A file that grows past a limit is an error to report, not a signal to die of.
    #[cfg(unix)]
    // SAFETY: SIG_IGN installs no handler.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    let cli = match Cli::from_args(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return fail(&error),
    };
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => "error",
        (_, true) => "zotune=debug,info",
        _ => "info",
    };
    let wanted = std::env::var("RUST_LOG").ok().filter(|w| !w.is_empty()).and_then(|w| w.parse().ok());
    let filter: tracing_subscriber::EnvFilter = wanted.unwrap_or_else(|| level.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Lines of debugging quote what the model reads, which stays as it is.
        .with_writer(
            (|| WithFlags(Plain(std::io::stderr()))).with_max_level(Level::INFO).or_else(|| Plain(std::io::stderr())),
        )
        // Whoever reads stderr may go away; the run goes on.
        .log_internal_errors(false)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_level(cli.verbose)
        .init();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Says what went wrong, outermost first, with options as they are typed, and gives the exit code.
fn fail(error: &anyhow::Error) -> ExitCode {
    if let Some(interrupted) = error.downcast_ref::<Interrupted>() {
        // What was asked for is no error.
        let _ = writeln!(Plain(std::io::stderr()), "{}", with_flags(&interrupted.to_string()));
        return ExitCode::from(exit_code(error));
    }
    let causes: String =
        error.chain().skip(1).map(|cause| format!("  {}\n", bounded(&with_flags(&cause.to_string())))).collect();
    // Nowhere is left to report that this cannot be written.
    let _ = write!(Plain(std::io::stderr()), "error: {}\n{causes}", bounded(&with_flags(&error.to_string())));
    ExitCode::from(exit_code(error))
}
