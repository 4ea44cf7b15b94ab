//! Parses the arguments, runs the command, prints the error chain and returns the exit code for the error.

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
    // With SIGXFSZ ignored, exceeding a file-size limit is an ordinary write error instead of a fatal signal.
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
        // The reader of stderr may close it; the run continues.
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

/// Prints the error chain, outermost first, and returns its exit code.
fn fail(error: &anyhow::Error) -> ExitCode {
    if let Some(interrupted) = error.downcast_ref::<Interrupted>() {
        // The user asked for the interruption: no "error:" prefix.
        let _ = writeln!(Plain(std::io::stderr()), "{}", with_flags(&interrupted.to_string()));
        return ExitCode::from(exit_code(error));
    }
    let causes: String =
        error.chain().skip(1).map(|cause| format!("  {}\n", bounded(&with_flags(&cause.to_string())))).collect();
    // A failed write to stderr has nowhere to be reported.
    let _ = write!(Plain(std::io::stderr()), "error: {}\n{causes}", bounded(&with_flags(&error.to_string())));
    ExitCode::from(exit_code(error))
}
