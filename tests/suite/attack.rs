//! Every reader under attack: inputs made hostile, each a pure function of its number. What is read is the original's result, another one
//! where nothing seals the file, or an error: no panic, no memory beyond what the original needs and a little, no waiting.
//!
//! As many inputs as `ZOTUNE_ATTACKS` says; scripts/attack.sh runs the long form.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use candle_core::DType;
use candle_core::quantized::GgmlDType;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde_json::Value;
use zotune::base::Source;
use zotune::config::{Common, Inputs};
use zotune::data::Batch;
use zotune::data::task::{Sizes, Task};
use zotune::data::tokenizer::Tokenizer;
use zotune::hub::FileRequest;
use zotune::model::Model;
use zotune::model::adapter::Adapter;
use zotune::run::LoadedModel;
use zotune::run::replay::replay_model;
use zotune::run::trajectory::Trajectory;

use crate::gguf::Gguf;
use crate::hub_server::{Answer, Hub, Repo, Request};
use crate::mutate::{self, Rng};
use crate::support::{Column, FIXTURES, RUN, alone, copy_of, done, fixture, stderr, workplace, write_parquet, zotune};
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

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (path, place) = {
            let entry = entry?;
            (entry.path(), to.join(entry.file_name()))
        };
        match path.is_dir() {
            true => copy(&path, &place)?,
            false => std::fs::copy(&path, &place).map(|_| ())?,
        }
    }
    Ok(())
}

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
        copy(original.path(), &folder)?;
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
        copy(target.originals[which].path(), &folder)?;
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

/// The bytes of all weights.
fn weights(params: &mut zotune::params::Params) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for (name, tensor) in params.settle()?.iter() {
        all.extend(name.as_bytes());
        all.extend(tensor.bytes());
    }
    Ok(all)
}

fn read_model(folder: &Path) -> Result<Vec<u8>> {
    let (_, mut params) = Model::open(&Source::Folder(folder.into()), DType::F32)?;
    weights(&mut params)
}

/// The files of a zip archive, written again with their sums.
fn rezip(path: &Path, mut change: impl FnMut(&str, Vec<u8>) -> Vec<u8>) -> Result<()> {
    let mut from = zip::ZipArchive::new(std::io::Cursor::new(std::fs::read(path)?))?;
    let mut to = zip::ZipWriter::new(std::fs::File::create(path)?);
    for i in 0..from.len() {
        let mut entry = from.by_index(i)?;
        let (name, mut bytes) = (entry.name()?.to_string(), Vec::new());
        entry.read_to_end(&mut bytes)?;
        to.start_file(&name, zip::write::SimpleFileOptions::default())?;
        to.write_all(&change(&name, bytes))?;
    }
    to.finish()?;
    Ok(())
}

fn attack_pickle(rng: &mut Rng, folder: &Path) -> Result<bool> {
    let path = folder.join("pytorch_model.bin");
    if rng.one_in(3) {
        damage(rng, &path)?;
        return Ok(true);
    }
    rezip(&path, |name, bytes| {
        if !name.ends_with("data.pkl") {
            return bytes;
        }
        let mut bytes = mutate::bytes(rng, &bytes);
        if rng.one_in(3) {
            // Operations where there were others.
            let at = rng.below(bytes.len());
            let operations =
                b".(0122BCGJKMNQRTUX]abcehjlqrstu}\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x93\x94\x95";
            let run = *rng.pick(&[1, 3, 50_000]);
            let operation = *rng.pick(operations);
            drop(bytes.splice(at..at, vec![operation; run]));
        }
        bytes
    })?;
    Ok(false)
}

/// A safetensors file whose header says something else of its tensors.
fn damage_safetensors(rng: &mut Rng, path: &Path) -> Result<()> {
    if rng.one_in(3) {
        return damage(rng, path);
    }
    let bytes = std::fs::read(path)?;
    let len = u64::from_le_bytes(bytes[..8].try_into()?) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + len])?;
    let header = mutate::json(rng, &header).to_string();
    Ok(std::fs::write(path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes[8 + len..]].concat())?)
}

fn attack_safetensors(rng: &mut Rng, folder: &Path) -> Result<bool> {
    damage_safetensors(rng, &folder.join("model.safetensors")).map(|()| false)
}

fn ggufs() -> Result<Vec<tempfile::TempDir>> {
    let of = |name: &str, architecture: &str, kind| {
        let folder = tempfile::tempdir()?;
        Gguf::of(copy_of(name)?.path(), architecture, kind)?.write(&folder.path().join("model.gguf"))?;
        Ok(folder)
    };
    [
        ("llama-tiny", "llama", GgmlDType::F32),
        ("qwen2-tiny", "qwen2", GgmlDType::F16),
        ("gemma-tiny", "gemma", GgmlDType::BF16),
    ]
    .into_iter()
    .map(|(name, architecture, kind)| of(name, architecture, kind))
    .collect()
}

fn read_gguf(folder: &Path) -> Result<Vec<u8>> {
    let source = zotune::formats::gguf::folder::open(&folder.join("model.gguf"))?;
    let tokens = Tokenizer::open(&source, None)?.encode("a t1 of t2")?;
    let (model, mut params) = Model::open(&source, DType::F32)?;
    let mut all = weights(&mut params)?;
    all.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
    all.extend(logits(&model, &mut params)?);
    Ok(all)
}

fn logits(model: &Model, params: &mut zotune::params::Params) -> Result<Vec<u8>> {
    let len = 5.min(model.shape().max_length) as u32;
    let sequence: Vec<u32> = (0..len).map(|i| (i * 7) % model.shape().vocab_size as u32).collect();
    let logits: Vec<f32> = model.logits(params.settle()?, &Batch::sequence(&sequence))?.to_vec()?;
    Ok(logits.into_iter().flat_map(f32::to_le_bytes).collect())
}

fn attack_config(rng: &mut Rng, folder: &Path) -> Result<bool> {
    damage_json(rng, &folder.join("config.json"))?;
    if rng.one_in(4) {
        // Nothing to compare with.
        let weights = ["model.safetensors", "pytorch_model.bin"].map(|name| folder.join(name));
        weights.iter().for_each(|path| drop(std::fs::remove_file(path)));
    }
    Ok(false)
}

fn read_config(folder: &Path) -> Result<Vec<u8>> {
    let source = Source::Folder(folder.into());
    let (outline, _, sizes) = Model::open_meta(&source, DType::F32, None)?;
    // Where no weights say otherwise a model may be as large as this says, and what is tried in its place takes what it takes.
    if sizes.iter().sum::<usize>() < 1 << 20 {
        let (stand_in, mut params) = outline.stand_in(DType::F32, 2)?;
        logits(&stand_in, &mut params)?;
    }
    let (model, mut params) = Model::open(&source, DType::F32)?;
    logits(&model, &mut params)
}

/// Steps that were never meant to be put there.
const STEPS: [&str; 14] = [
    r#"{"type":"Replace","pattern":{"String":""},"content":"x"}"#,
    r#"{"type":"Replace","pattern":{"Regex":"x*"},"content":"xx"}"#,
    r#"{"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaaaaaaaaaa"}"#,
    r#"{"type":"Replace","pattern":{"Regex":"(a|a)*b"},"content":""}"#,
    r#"{"type":"Sequence","normalizers":[{"type":"NFKD"},{"type":"Lowercase"},{"type":"Strip","strip_left":true,"strip_right":true}]}"#,
    r#"{"type":"Precompiled","precompiled_charsmap":"AAAAAAAAAAA="}"#,
    r#"{"type":"FixedLength","length":0}"#,
    r#"{"type":"ByteLevel","add_prefix_space":true,"use_regex":true}"#,
    r#"{"type":"Metaspace","replacement":"_","prepend_scheme":"always","split":true}"#,
    r#"{"type":"Split","pattern":{"Regex":"\\p{L}+"},"behavior":"Isolated","invert":true}"#,
    r#"{"type":"Split","pattern":{"String":""},"behavior":"Removed","invert":false}"#,
    r#"{"type":"UnicodeScripts"}"#,
    r#"{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true}"#,
    r#"{"type":"TemplateProcessing","single":[],"pair":[],"special_tokens":{}}"#,
];

fn attack_tokenizer(rng: &mut Rng, folder: &Path) -> Result<bool> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let path = rng.pick(&files).clone();
    let whole = folder.join("tokenizer.json");
    if whole.exists() && rng.one_in(2) {
        let mut value: Value = serde_json::from_slice(&std::fs::read(&whole)?)?;
        let place = *rng.pick(&["normalizer", "pre_tokenizer", "post_processor"]);
        let list = if place == "normalizer" { "normalizers" } else { "pretokenizers" };
        let step: Value = serde_json::from_str(rng.pick::<&str>(&STEPS))?;
        value[place] = match rng.below(3) {
            0 => step,
            _ => serde_json::json!({ "type": "Sequence", list: vec![step; 1 + rng.below(40)] }),
        };
        if rng.one_in(4) {
            value["model"]["continuing_subword_prefix"] = (*rng.pick(&["##", "é", "a long one"])).into();
        }
        std::fs::write(&whole, value.to_string())?;
        return Ok(false);
    }
    if path.extension().is_some_and(|ending| ending == "json") {
        damage_json(rng, &path)?
    } else {
        damage(rng, &path)?
    }
    Ok(false)
}

fn read_tokenizer(folder: &Path) -> Result<Vec<u8>> {
    let tokenizer = Tokenizer::open(&Source::Folder(folder.into()), None)?;
    let mut all = Vec::new();
    for text in ["", "a film of 1997, was it?", "  \u{1b} é漢字\n\n", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac"] {
        all.extend(tokenizer.encode(text)?.into_iter().flat_map(u32::to_le_bytes));
    }
    Ok(all)
}

fn adapters() -> Result<Vec<tempfile::TempDir>> {
    let of = |name: &str| {
        let folder = tempfile::tempdir()?;
        let (architecture, _) = name.split_once("-tiny").context("an adapter's name")?;
        copy(&fixture(&format!("{architecture}-tiny")), &folder.path().join("model"))?;
        copy(&fixture("adapters").join(name), &folder.path().join("adapter"))?;
        Ok(folder)
    };
    ["llama-tiny-lora", "llama-tiny-prefix", "opt-tiny-lora-all", "opt-tiny-prefix"].into_iter().map(of).collect()
}

fn attack_adapter(rng: &mut Rng, folder: &Path) -> Result<bool> {
    match rng.one_in(2) {
        true => damage_json(rng, &folder.join("adapter/adapter_config.json"))?,
        false => damage_safetensors(rng, &folder.join("adapter/adapter_model.safetensors"))?,
    }
    Ok(false)
}

fn read_adapter(folder: &Path) -> Result<Vec<u8>> {
    let adapter = Adapter::open(&folder.join("adapter"))?;
    let source = Source::Folder(folder.join("model"));
    let (outline, ..) = Model::open_meta(&source, DType::F32, Some(adapter.clone()))?;
    outline.stand_in(DType::F32, 2)?;
    let (_, mut params) = Model::open_adapted(&source, DType::F32, Some(adapter))?;
    weights(&mut params)
}

fn tasks() -> Result<Vec<tempfile::TempDir>> {
    let folder = tempfile::tempdir()?;
    let text = "description = \"a task\"\nloss = \"classification\"\nmetric = \"accuracy\"\n\n[data]\nformat = \"jsonl\"\n\
                train = \"train.jsonl\"\neval = \"train.jsonl\"\n\n[splits]\nnum_train = 8\nnum_dev = 4\nnum_eval = 4\n\n[prompt]\n\
                template = \"{% for w in words %}{{ loop.index }} {{ w | upper }} {% endfor %}{{ text | trim }} was\"\n\
                candidates = [\"bad\", \"{{ text[0] }} good\"]\n\n[label]\ncolumn = \"label\"\nvalues = [\"0\", \"1\"]\n";
    std::fs::write(folder.path().join("task.toml"), text)?;
    let rows: String =
        (0..20).map(|i| format!("{{\"text\": \"film {i} \", \"words\": [\"a\", \"b\"], \"label\": {}}}\n", i % 2)).collect();
    std::fs::write(folder.path().join("train.jsonl"), rows)?;
    Ok(vec![folder])
}

/// Parts of templates.
const PARTS: [&str; 24] = [
    "{{ text }}",
    "{% for x in range(9999) %}",
    "{% endfor %}",
    "{% if text %}",
    "{% endif %}",
    "{% elif text %}",
    "{% set text = text ~ text %}",
    "{% set t = text | replace('f', 'ffffffff') %}",
    "{{ text | join(text) }}",
    "{{ words | join(text) | upper }}",
    "{{ text * 100000000 }}",
    "{% raw %}",
    "{% endraw %}",
    "{{ '}}' }}",
    "{# ",
    "{{ range(100000) | list | join('xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx') }}",
    "{% macro m() %}{{ m() }}{% endmacro %}",
    "{{ text | pprint | pprint }}",
    "{{ ((((((((text)))))))) }}",
    "{% for x in words recursive %}{{ loop(words) }}",
    "{{ -(-(-1)) }}",
    "{{ text ~ text ~ text }}",
    "{{ words[99999999999] }}",
    "{{ text[::-1] }}",
];

fn attack_task(rng: &mut Rng, folder: &Path) -> Result<bool> {
    let path = folder.join("task.toml");
    if rng.one_in(3) {
        damage(rng, &path)?;
        return Ok(false);
    }
    let mut template = String::new();
    for _ in 0..1 + rng.below(8) {
        template += &rng.pick(&PARTS).repeat(*rng.pick(&[1, 1, 2, 30, 300]));
    }
    if rng.one_in(6) {
        template = format!(
            "{{{{ text{} }}}}",
            rng.pick(&["|trim", ".a", "[0]", "()", " ~ text", " and text"]).repeat(rng.below(20_000))
        );
    }
    let text = std::fs::read_to_string(&path)?;
    let old = text.lines().find(|line| line.starts_with("template")).context("a template")?;
    Ok(std::fs::write(&path, text.replace(old, &format!("template = {}", Value::from(template)))).map(|()| false)?)
}

fn prompts(task: &Task, data: Option<&Path>) -> Result<Vec<u8>> {
    let splits = task.splits(&task.data(data)?, Sizes::default(), 0)?;
    let all = splits.train.iter().chain(&splits.dev).chain(&splits.eval);
    Ok(all.flat_map(|row| [std::slice::from_ref(&row.prompt), &row.answered[..]].concat().join("\n").into_bytes()).collect())
}

fn read_task(folder: &Path) -> Result<Vec<u8>> {
    prompts(&Task::open(&folder.join("task.toml").to_string_lossy())?, Some(folder))
}

fn rows(ending: &str) -> Result<Vec<tempfile::TempDir>> {
    let texts: Vec<String> = (0..40).map(|i| format!("film {i}, \"good\" or not; é")).collect();
    let of = |other: &str, value: &dyn Fn(usize) -> String| {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(format!("data.{ending}"));
        let first = if other == "label" { "text" } else { "prompt" };
        let lines = texts.iter().enumerate();
        let text = match ending {
            "parquet" => {
                let others = (0..texts.len()).map(value).collect();
                write_parquet(&path, &[(first, Column::Texts(texts.clone())), (other, Column::Texts(others))], 15)?;
                return Ok(folder);
            }
            "jsonl" => lines.map(|(i, text)| format!("{}\n", serde_json::json!({ first: text, other: value(i) }))).collect(),
            "csv" => {
                format!("{first},{other}\n")
                    + &lines.map(|(i, text)| format!("\"{}\",{}\n", text.replace('"', "\"\""), value(i))).collect::<String>()
            }
            _ => {
                format!("{first}\t{other}\n") + &lines.map(|(i, text)| format!("{text}\t{}\n", value(i))).collect::<String>()
            }
        };
        std::fs::write(path, text)?;
        Ok(folder)
    };
    [("label", &(|i: usize| (i % 3).to_string()) as &dyn Fn(usize) -> String), ("completion", &|i| format!(" then {i}"))]
        .into_iter()
        .map(|(other, value)| of(other, value))
        .collect()
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    Ok(std::fs::read_dir(folder)?.next().context("no file")??.path())
}

fn attack_rows(rng: &mut Rng, folder: &Path) -> Result<bool> {
    let path = only_file(folder)?;
    let mut text = std::fs::read(&path)?;
    if path.extension().is_some_and(|ending| ending != "parquet") && rng.one_in(3) {
        let at = rng.below(text.len());
        let part = *rng.pick(&["\"", "\"\"", "\t", ",", "\n", "\r", "{", "[[[[[[[[", "\u{feff}", "\0", "\u{1b}[2J", "null"]);
        drop(text.splice(at..at, part.repeat(*rng.pick(&[1, 2, 1000])).into_bytes()));
        std::fs::write(path, text)?;
        return Ok(false);
    }
    damage(rng, &path).map(|()| false)
}

fn read_rows(folder: &Path) -> Result<Vec<u8>> {
    let path = only_file(folder)?;
    prompts(&Task::of(None, Some(&path))?, Some(&path))
}

/// Runs and what is exported of them, each beside its base model.
fn trajectories() -> Result<(Vec<tempfile::TempDir>, Vec<tempfile::TempDir>)> {
    let (mut logs, mut zots) = (Vec::new(), Vec::new());
    for more in ["", "--num-directions 3 --optimizer zo-adam", "--lora-r 2"] {
        let work = workplace()?;
        done(work.path(), &format!("train {} --max-steps 12 --output-dir run {more}", RUN))?;
        done(work.path(), "export run --trajectory run.zot")?;
        for (file, folders) in [("run/trajectory.bin", &mut logs), ("run.zot", &mut zots)] {
            let folder = tempfile::tempdir()?;
            copy(&work.path().join("model"), &folder.path().join("model"))?;
            std::fs::copy(work.path().join(file), folder.path().join("trajectory"))?;
            folders.push(folder);
        }
    }
    Ok((logs, zots))
}

fn read_trajectory(folder: &Path) -> Result<Vec<u8>> {
    let trajectory = Trajectory::open(&folder.join("trajectory"))?;
    let mut all = Vec::new();
    for step in 1..=trajectory.steps() {
        all.extend(trajectory.values(step).into_iter().flatten().flat_map(|value: &f32| value.to_le_bytes()));
    }
    // As the replay verb does, but for the model's place.
    let mut inputs =
        Inputs::check(Common { model: Some(folder.join("model").to_string_lossy().into()), ..Common::default() })?;
    inputs.tuned = trajectory.header.config.inputs.tuned.clone();
    inputs.dtype = trajectory.header.config.inputs.dtype;
    let mut bench = LoadedModel::open(&inputs)?;
    let steps = trajectory.steps().min(50);
    replay_model(&trajectory, &mut bench, steps, &mut |_| Ok(()))?;
    Ok(all)
}

fn attack_log(rng: &mut Rng, folder: &Path) -> Result<bool> {
    let path = folder.join("trajectory");
    if rng.one_in(2) {
        damage(rng, &path)?;
        return Ok(true);
    }
    // Another header, or other records, with sums that are right.
    let bytes = std::fs::read(&path)?;
    let len = u32::from_le_bytes(bytes[8..12].try_into()?) as usize;
    let header: Value = serde_json::from_slice(&bytes[12..12 + len])?;
    let header = if rng.one_in(4) { header.to_string() } else { mutate::json(rng, &header).to_string() };
    let mut out = [&bytes[..8], &(header.len() as u32).to_le_bytes(), header.as_bytes()].concat();
    let sum = |chain: u32, bytes: &[u8]| crc32fast::hash(&[&chain.to_le_bytes()[..], bytes].concat());
    let (mut chain, mut at) = (sum(0, header.as_bytes()), 12 + len + 4);
    out.extend(chain.to_le_bytes());
    while at + 8 <= bytes.len() {
        let words = (u32::from_le_bytes(bytes[at..at + 4].try_into()?) >> 8) as usize;
        let mut record = bytes[at..at + 4 + 4 * words].to_vec();
        at += record.len() + 4;
        if rng.one_in(4) {
            let place = rng.below(record.len());
            record[place] = rng.next() as u8;
        }
        chain = sum(chain, &record);
        out.extend(record);
        out.extend(chain.to_le_bytes());
    }
    std::fs::write(path, out)?;
    Ok(false)
}

fn attack_zot(rng: &mut Rng, folder: &Path) -> Result<bool> {
    let path = folder.join("trajectory");
    if rng.one_in(2) {
        damage(rng, &path)?;
        return Ok(true);
    }
    let bytes = std::fs::read(&path)?;
    let mut plain = Vec::new();
    DeflateDecoder::new(&bytes[12..]).read_to_end(&mut plain)?;
    let len = u32::from_le_bytes(plain[..4].try_into()?) as usize;
    let front: Value = serde_json::from_slice(&plain[4..4 + len])?;
    let mut front = if rng.one_in(3) { front } else { mutate::json(rng, &front) };
    if rng.one_in(3) {
        front["counts"] = match rng.below(4) {
            0 => serde_json::json!([[1u64 << 63, 2], [12, 1]]),
            1 => serde_json::json!([[1u64 << 32, 1u64 << 32]]),
            2 => serde_json::json!([[1, u64::MAX], [1, 13]]),
            _ => serde_json::json!([[u64::MAX, 0], [12, 1]]),
        };
    }
    let front = front.to_string();
    let mut columns = plain[4 + len..].to_vec();
    if rng.one_in(3) {
        columns = mutate::bytes(rng, &columns);
    }
    if rng.one_in(10) {
        columns = vec![0; 40 << 20];
    }
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&(front.len() as u32).to_le_bytes())?;
    encoder.write_all(front.as_bytes())?;
    encoder.write_all(&columns)?;
    let body = encoder.finish()?;
    std::fs::write(path, [&bytes[..8], &crc32fast::hash(&body).to_le_bytes(), &body].concat())?;
    Ok(false)
}

/// A run that has made its steps and is to have more, with two checkpoints to go on from.
fn checkpoints() -> Result<tempfile::TempDir> {
    let work = workplace()?;
    let more = "--optimizer adamw --max-steps 12 --save-total-limit 2 --output-dir run";
    done(work.path(), &format!("train {} {more}", RUN))?;
    Ok(work)
}

fn attack_checkpoint(rng: &mut Rng, folder: &Path) -> Result<bool> {
    for checkpoint in ["run/checkpoint-12", "run/checkpoint-6"].iter().take(1 + rng.below(2)) {
        let name =
            *rng.pick(&["state.safetensors", "model.safetensors", "state.sha256", "config.json", "../trainer_log.jsonl"]);
        damage(rng, &folder.join(checkpoint).join(name))?;
    }
    Ok(true)
}

/// In a process of its own, as a person goes on with it. What is written beside the weights goes by the base's files.
fn read_checkpoint(folder: &Path) -> Result<Vec<u8>> {
    let output = zotune(folder, "train --resume run --max-steps 18").output()?;
    match output.status.code() {
        Some(0) => Ok(std::fs::read(folder.join("run/model.safetensors"))?),
        Some(code @ 1..=6) => anyhow::bail!("exit code {code}: {}", stderr(&output)),
        _ => panic!("{:?}: {}", output.status, stderr(&output)),
    }
}

const ID: &str = "org/model";
const COMMIT: &str = "27dcfa74d334bc871f3234de431e71c6eeba5dd6";

/// The hub that all attacks play on.
fn the_hub() -> Result<&'static Hub> {
    static HUB: OnceLock<Hub> = OnceLock::new();
    if let Some(hub) = HUB.get() {
        return Ok(hub);
    }
    let mut files = BTreeMap::new();
    for name in ["config.json", "model.safetensors"] {
        files.insert(name.to_string(), std::fs::read(fixture("llama-tiny").join(name))?);
    }
    files.insert("generation_config.json".into(), b"{}".to_vec());
    let hub = Hub::start(Repo::new(&format!("models/{ID}"), COMMIT, files))?;
    Ok(HUB.get_or_init(|| hub))
}

/// A place for a cache, and the number of the trick that is played; 0: none.
fn hub_home() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("trick"), "0")?;
    Ok(folder)
}

fn attack_hub(rng: &mut Rng, folder: &Path) -> Result<bool> {
    let trick = rng.next() | 1;
    std::fs::write(folder.join("trick"), trick.to_string())?;
    // What is another name is another content, which nobody can tell from the right one.
    Ok(!renames(trick))
}

fn renames(trick: u64) -> bool {
    trick >> 8 & 3 == 0
}

/// One answer in three told otherwise.
fn trick(trick: u64, request: &Request, mut answer: Answer) -> Answer {
    let seed = request.target.bytes().fold(trick, |seed, byte| seed.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte));
    let rng = &mut Rng::new(seed);
    if !rng.one_in(3) {
        return answer;
    }
    let odd = |rng: &mut Rng| match mutate::odd_value(rng) {
        Value::String(text) => text.chars().filter(|c| !c.is_control()).take(200).collect(),
        value => value.to_string().chars().take(200).collect::<String>(),
    };
    match rng.below(12) {
        0..4 => answer.body = mutate::bytes(rng, &answer.body),
        4 => answer.status = *rng.pick(&[200, 204, 206, 301, 302, 404, 416, 418, 401]),
        5 => answer = answer.with("Content-Encoding", rng.pick(&["gzip", "br", "identity", "x"])),
        6 => answer = answer.with("Content-Range", format!("bytes {}-{}/{}", odd(rng), odd(rng), odd(rng))),
        7 => answer.length = Some(rng.next() as usize >> rng.below(60)),
        8 => answer = answer.with("Location", odd(rng)),
        9 if renames(trick) => {
            answer.headers.retain(|header| !header.0.to_lowercase().contains("etag"));
            answer = answer.with("ETag", odd(rng)).with("X-Linked-Size", odd(rng));
        }
        10 if renames(trick) => {
            let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            answer.body = mutate::json(rng, &value).to_string().into();
        }
        _ if rng.one_in(20) => answer.cut = Some(rng.below(answer.body.len())),
        _ => answer = answer.with("X-Error-Message", odd(rng)),
    }
    answer
}

fn read_hub(folder: &Path) -> Result<Vec<u8>> {
    let number: u64 = std::fs::read_to_string(folder.join("trick"))?.parse()?;
    let (hub, usual) = (the_hub()?, the_hub()?.usual());
    match number {
        0 => hub.behave(),
        number => hub.play(move |request| Some(trick(number, request, usual(request)?))),
    }
    let home = folder.join("hf").to_string_lossy().into_owned();
    let variables = |name: &str| match name {
        "HF_HOME" => Some(home.clone()),
        "HF_ENDPOINT" => Some(hub.url.clone()),
        "HF_HUB_ETAG_TIMEOUT" | "HF_HUB_DOWNLOAD_TIMEOUT" => Some("1".into()),
        _ => None,
    };
    let client = zotune::hub::Hub::from_variables(&variables)?;
    let wanted = [FileRequest::Required("config.json"), FileRequest::FirstOf(&["model.safetensors"])];
    let snapshot = client.snapshot(&zotune::hub::Repo::model(ID, None), &wanted)?;
    let read = |name: &str| std::fs::read(snapshot.folder.join(name));
    Ok([read("config.json")?, read("model.safetensors")?].concat())
}
