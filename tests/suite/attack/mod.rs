//! Every reader under attack: inputs made hostile, each a pure function of its number. What is read is the original's result, another one
//! where nothing seals the file, or an error: no panic, no memory beyond what the original needs and a little, no waiting.
//!
//! As many inputs as `ZOTUNE_ATTACKS` says; scripts/attack.sh runs the long form.

mod data;
mod hub;
mod models;
mod runs;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use data::{attack_rows, attack_task, read_rows, read_task, rows, tasks};
use hub::{attack_hub, hub_home, read_hub};
use models::{
    adapters, attack_adapter, attack_config, attack_pickle, attack_safetensors, attack_tokenizer, ggufs, read_adapter,
    read_config, read_gguf, read_model, read_tokenizer,
};
use runs::{attack_checkpoint, attack_log, attack_zot, checkpoints, read_checkpoint, read_trajectory, trajectories};
use serde_json::Value;

use crate::mutate::{self, Rng};
use crate::support::{FIXTURES, alone, copy_all, copy_of};
use crate::tokenizers;

/// What reading a hostile input may hold beyond what the original holds, in bytes.
const MOST_MEMORY: usize = 64 << 20;
/// And how long it may take, on a machine with other work.
const MOST_TIME: Duration = Duration::from_secs(30);

/// A kind of input, its originals in folders, and how it is read.
struct Target {
    name: &'static str,
    /// Its part of a thousand inputs.
    share: usize,
    originals: Vec<tempfile::TempDir>,
    /// Makes what lies in a folder hostile. Whether a sum seals it: then the result is the original's, or the beginning of it.
    attack: fn(&mut Rng, &Path) -> Result<bool>,
    /// Reads what lies in a folder, to all that comes of it.
    read: fn(&Path) -> Result<Vec<u8>>,
}

#[derive(Default)]
struct Tally {
    inputs: usize,
    same: usize,
    others: usize,
    errors: usize,
    longest: Duration,
    largest: usize,
}

thread_local!(static PANIC: RefCell<Option<String>> = const { RefCell::new(None) });

/// Reads, and gives what it took.
fn measured(target: &Target, folder: &Path) -> (Result<Result<Vec<u8>>, String>, usize, Duration) {
    let start = Instant::now();
    let (read, peak) = zotune::base::memory::peak_of(|| catch_unwind(AssertUnwindSafe(|| (target.read)(folder))));
    let read = read.map_err(|_| PANIC.take().unwrap_or_else(|| "a panic".into()));
    (read, peak, start.elapsed())
}

/// Attacks a target so many times, from the `first` input on.
fn attack(target: &Target, first: usize, inputs: usize) -> Result<Tally> {
    let mut tally = Tally::default();
    let (mut honest, place) = (Vec::new(), tempfile::tempdir()?);
    let folder = place.path().join("input");
    let show = std::env::var_os("ZOTUNE_ATTACK_SHOW").is_some();
    for original in &target.originals {
        copy_all(original.path(), &folder)?;
        let (read, peak, _) = measured(target, &folder);
        let read = read.map_err(anyhow::Error::msg)?.with_context(|| format!("an original of {}", target.name))?;
        honest.push((read, peak));
        std::fs::remove_dir_all(&folder)?;
    }
    for number in first..first + inputs {
        let seed =
            target.name.bytes().fold(number as u64, |seed, byte| seed.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte));
        let mut rng = Rng::new(seed);
        let which = rng.below(target.originals.len());
        copy_all(target.originals[which].path(), &folder)?;
        let sealed = (target.attack)(&mut rng, &folder)?;
        // What aborts leaves its number here.
        std::fs::write(place.path().join("number"), number.to_string())?;
        let (read, peak, time) = measured(target, &folder);
        let what = || format!("{} {number} (original {which}, {})", target.name, folder.display());
        let read = match read {
            Ok(read) => read,
            Err(panic) => return keep(place, format!("{}: {panic}", what())),
        };
        let (expected, needed) = &honest[which];
        tally.inputs += 1;
        tally.longest = tally.longest.max(time);
        tally.largest = tally.largest.max(peak.saturating_sub(*needed));
        match read {
            Err(error) => {
                if show {
                    println!("{} {number}: {error:#}", target.name);
                }
                tally.errors += 1;
            }
            Ok(found) if found == *expected => tally.same += 1,
            Ok(found) if sealed && !expected.starts_with(&found) => {
                return keep(place, format!("{}: it was read as something else than was written", what()));
            }
            Ok(_) => tally.others += 1,
        }
        if peak > needed + MOST_MEMORY {
            return keep(place, format!("{}: it took {} MiB, the original {}", what(), peak >> 20, needed >> 20));
        }
        if time > MOST_TIME {
            return keep(place, format!("{}: it took {time:?}", what()));
        }
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(tally)
}

/// Fails, and leaves the input to be looked at.
fn keep(place: tempfile::TempDir, why: String) -> Result<Tally> {
    let _ = place.keep();
    anyhow::bail!(why)
}

#[test]
fn whatever_is_read_it_is_the_original_or_an_error() -> Result<()> {
    if !alone("attack::whatever_is_read_it_is_the_original_or_an_error")? {
        return Ok(());
    }
    std::panic::set_hook(Box::new(|info| PANIC.set(Some(info.to_string()))));
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<usize>().ok());
    let (inputs, first) = (number("ZOTUNE_ATTACKS").unwrap_or(5000), number("ZOTUNE_ATTACK_FROM").unwrap_or(0));
    let only = std::env::var("ZOTUNE_ATTACK_ONLY").ok();
    let (mut failures, mut total) = (Vec::new(), 0);
    println!(
        "{:<12} {:>7} {:>7} {:>7} {:>7} {:>9} {:>9}",
        "reader", "inputs", "errors", "same", "others", "MiB more", "longest"
    );
    for target in targets()? {
        if only.as_ref().is_some_and(|only| only != target.name) {
            continue;
        }
        match attack(&target, first, (inputs * target.share).div_ceil(1000)) {
            Ok(tally) => {
                let Tally { inputs, same, others, errors, longest, largest } = tally;
                let (largest, longest) = (largest as f64 / f64::from(1 << 20), longest.as_secs_f64());
                println!(
                    "{:<12} {inputs:>7} {errors:>7} {same:>7} {others:>7} {largest:>9.1} {longest:>7.2} s",
                    target.name
                );
                // A run makes again what a damaged checkpoint has lost.
                ensure!(errors > 0 || same == inputs, "{}: nothing was refused", target.name);
                total += inputs;
            }
            Err(failure) => failures.push(format!("{failure:#}")),
        }
    }
    println!("{total} inputs");
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

/// All readers.
fn targets() -> Result<Vec<Target>> {
    let target = |name, share, originals, attack, read| Target { name, share, originals, attack, read };
    let fixtures = |names: &[&str]| names.iter().map(|name| copy_of(name)).collect::<Result<Vec<_>>>();
    let mut targets = vec![
        target("pickle", 110, fixtures(&["opt-350m-tiny", "odd-views"])?, attack_pickle, read_model),
        target("safetensors", 80, fixtures(&["llama-tiny", "qwen3-tiny"])?, attack_safetensors, read_model),
        target("gguf", 120, ggufs()?, |rng, folder| damage(rng, &folder.join("model.gguf")).map(|()| false), read_gguf),
        target("config", 120, fixtures(&FIXTURES)?, attack_config, read_config),
        target("tokenizer", 137, tokenizers::folders()?, attack_tokenizer, read_tokenizer),
        target("adapter", 80, adapters()?, attack_adapter, read_adapter),
        target("task", 80, tasks()?, attack_task, read_task),
    ];
    for (name, share, ending) in [("parquet", 70, "parquet"), ("jsonl", 40, "jsonl"), ("csv", 40, "csv"), ("tsv", 40, "tsv")]
    {
        targets.push(target(name, share, rows(ending)?, attack_rows, read_rows));
    }
    let (logs, zots) = trajectories()?;
    targets.push(target("trajectory", 40, logs, attack_log, read_trajectory));
    targets.push(target("zot", 30, zots, attack_zot, read_trajectory));
    targets.push(target("checkpoint", 3, vec![checkpoints()?], attack_checkpoint, read_checkpoint));
    targets.push(target("hub", 10, vec![hub_home()?], attack_hub, read_hub));
    Ok(targets)
}

/// Bytes of a file changed.
fn damage(rng: &mut Rng, path: &Path) -> Result<()> {
    let bytes = mutate::bytes(rng, &std::fs::read(path)?);
    Ok(std::fs::write(path, bytes)?)
}

/// A JSON file told otherwise, or damaged.
fn damage_json(rng: &mut Rng, path: &Path) -> Result<()> {
    if rng.one_in(4) {
        return damage(rng, path);
    }
    let value: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    Ok(std::fs::write(path, mutate::json(rng, &value).to_string())?)
}
