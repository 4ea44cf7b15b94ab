//! What attacks have found, each with its name: hostile files are refused, and what is refused is said.

use anyhow::{Context, Result};
use candle_core::DType;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value as Metadata;
use serde_json::{Value, json};
use zotune::base::Source;
use zotune::data::task::Task;
use zotune::data::tokenizer::Tokenizer;
use zotune::model::Model;
use zotune::run::trajectory::Trajectory;

use crate::support::gguf::Gguf;
use crate::support::{Column, RUN, alone, copy_of, done, edit, stderr, workplace, write_parquet, zotune};

fn refused<T>(read: Result<T>) -> String {
    format!("{:#}", read.err().expect("it was read"))
}

/// A BPE of a few letters, with these parts.
fn tokenizer(parts: Value) -> Result<Tokenizer> {
    let folder = tempfile::tempdir()?;
    let mut whole = json!({
        "version": "1.0", "model": { "type": "BPE", "vocab": { "a": 0, "b": 1, "ab": 2, "##b": 3 }, "merges": [["a", "b"]] },
    });
    for (name, part) in parts.as_object().context("parts")? {
        match (name.as_str(), part.as_object()) {
            ("model", Some(fields)) => fields.iter().for_each(|(name, value)| whole["model"][name] = value.clone()),
            _ => whole[name] = part.clone(),
        }
    }
    std::fs::write(folder.path().join("tokenizer.json"), whole.to_string())?;
    Tokenizer::open(&Source::Folder(folder.path().into()), None)
}

#[test]
fn steps_of_a_tokenizer_that_panic_or_explode_are_refused_by_name() -> Result<()> {
    assert_eq!(tokenizer(json!({}))?.encode("abab")?, [2, 2]);
    let replace = |pattern: Value, content: &str| json!({ "type": "Replace", "pattern": pattern, "content": content });
    for (parts, expected) in [
        (
            json!({ "normalizer": replace(json!({ "String": "" }), "x") }),
            "Replace: its pattern is empty and matches everywhere",
        ),
        (json!({ "normalizer": replace(json!({ "Regex": "x*" }), "x") }), "matches an empty text"),
        (json!({ "pre_tokenizer": { "type": "FixedLength", "length": 0 } }), "FixedLength: length is 0"),
        (json!({ "model": { "continuing_subword_prefix": "##" } }), "has a second half without continuing_subword_prefix"),
        (
            json!({ "normalizer": { "type": "Sequence", "normalizers": vec![replace(json!({ "String": "a" }), "aa"); 40] } }),
            "make a text more than 1000 times longer",
        ),
    ] {
        let error = refused(tokenizer(parts));
        assert!(error.contains(expected) && error.contains("tokenizer.json"), "{error}");
    }
    // A download that was cut within the decoder.
    let folder = tempfile::tempdir()?;
    let text =
        r#"{"version":"1.0","model":{"type":"BPE","vocab":{"a":0},"merges":[]},"decoder":{"type":"ByteLevel","add_pre"#;
    std::fs::write(folder.path().join("tokenizer.json"), text)?;
    assert!(refused(Tokenizer::open(&Source::Folder(folder.path().into()), None)).contains("EOF while parsing"));
    Ok(())
}

#[test]
fn a_config_is_held_to_the_weights_before_anything_is_allocated() -> Result<()> {
    if !alone("hostile::a_config_is_held_to_the_weights_before_anything_is_allocated")? {
        return Ok(());
    }
    for (name, size, with, without) in [
        ("hidden_size", 100_000u64, "has the shape [64, 16], but config.json asks for [64, 100000]", ""),
        (
            "num_hidden_layers",
            4_000_000,
            "num_hidden_layers is 4000000; it must be from 1 to 8192",
            "num_hidden_layers is 4000000",
        ),
        ("num_hidden_layers", 8192, "which config.json asks for", ""),
        ("vocab_size", 1 << 24, "but config.json asks for", ""),
        ("head_dim", u64::MAX, "head_dim is", "head_dim is"),
    ] {
        let folder = copy_of("llama-tiny")?;
        edit(folder.path(), "config.json", |config| {
            let heads = config["num_attention_heads"].as_u64().unwrap_or(1);
            config.entry("head_dim").or_insert((16 / heads).into());
            config.insert(name.into(), size.into());
        })?;
        let source = Source::Folder(folder.path().into());
        let (errors, held) = zotune::base::memory::peak_of(|| {
            [refused(Model::open_meta(&source, DType::F32, None)), refused(Model::open(&source, DType::F32))]
        });
        for error in errors {
            assert!(error.contains(with) || name == "hidden_size" && error.contains("config.json asks for"), "{error}");
        }
        // Weights that are still to come have no shapes yet.
        std::fs::remove_file(folder.path().join("model.safetensors"))?;
        let (outlined, more) = zotune::base::memory::peak_of(|| Model::open_meta(&source, DType::F32, None).map(|_| ()));
        assert_eq!(outlined.is_ok(), without.is_empty(), "{name} {size}");
        assert!(held.max(more) < 64 << 20, "{name} {size}: {held} and {more} bytes were held");
    }
    Ok(())
}

#[test]
fn numbers_that_no_model_is_made_with_are_refused() -> Result<()> {
    for (name, field, value) in [
        ("llama-tiny", "rms_norm_eps", json!(1e300)),
        ("llama-tiny", "rms_norm_eps", json!(-1e-5)),
        ("llama-tiny", "rope_theta", json!(0.0)),
        ("llama-tiny", "rope_theta", json!(-1e4)),
        ("gemma2-tiny", "query_pre_attn_scalar", json!(0.0)),
        ("gemma2-tiny", "query_pre_attn_scalar", json!(-16.0)),
        ("gemma2-tiny", "attn_logit_softcapping", json!(1e300)),
    ] {
        let folder = copy_of(name)?;
        edit(folder.path(), "config.json", |config| {
            config.remove("rope_parameters");
            config.insert(field.into(), value.clone());
        })?;
        let error = refused(Model::open(&Source::Folder(folder.path().into()), DType::F32));
        assert!(error.contains("must be") && error.contains("above 0"), "{field} {value}: {error}");
    }
    Ok(())
}

/// Where the file says of a tensor what it is: name, dimensions, type, offset. Gives the place of the offset.
fn offset_of(bytes: &[u8], name: &str) -> Result<usize> {
    let at = bytes.windows(name.len()).position(|window| window == name.as_bytes()).context("no such tensor")? + name.len();
    let dims = u32::from_le_bytes(bytes[at..at + 4].try_into()?) as usize;
    Ok(at + 4 + 8 * dims + 4)
}

#[test]
fn tensors_of_a_gguf_file_lie_one_behind_the_other() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    let model = copy_of("llama-tiny")?;
    let write = |change: &dyn Fn(&mut Gguf)| -> Result<Vec<u8>> {
        let mut file = Gguf::of(model.path(), "llama", GgmlDType::F32)?;
        change(&mut file);
        file.write(&path)?;
        Ok(std::fs::read(&path)?)
    };
    let open = |bytes: &[u8]| -> Result<()> {
        std::fs::write(&path, bytes)?;
        Model::open(&zotune::formats::gguf::folder::open(&path)?, DType::F32).map(drop)
    };
    let whole = write(&|_| ())?;
    open(&whole)?;
    let (a, b) = (offset_of(&whole, "blk.0.attn_norm.weight")?, offset_of(&whole, "blk.0.ffn_norm.weight")?);
    let offset = |at: usize| whole[at..at + 8].to_vec();
    for (what, from, to) in [
        ("over another", a, offset(b)),
        ("swapped", b, offset(a)),
        ("not aligned", a, {
            let near = u64::from_le_bytes(offset(a).try_into().unwrap_or_default()) + 4;
            near.to_le_bytes().to_vec()
        }),
    ] {
        let mut bytes = whole.clone();
        bytes[from..from + 8].copy_from_slice(&to);
        if what == "swapped" {
            bytes[a..a + 8].copy_from_slice(&offset(b));
        }
        let error = refused(open(&bytes));
        assert!(error.contains("after the tensors before it and with general.alignment 32 it is"), "{what}: {error}");
    }
    for (key, value) in [("llama.rope.freq_base", f32::NAN), ("llama.rope.freq_base", f32::INFINITY)] {
        let bytes = write(&|file| file.set(key, Metadata::F32(value)))?;
        let error = refused(open(&bytes));
        assert!(
            error.contains(&format!("its metadata {key} is")) && error.contains("it must be a finite number"),
            "{error}"
        );
    }
    let bytes = write(&|file| file.set("llama.rope.freq_base", Metadata::F32(-1.0)))?;
    assert!(refused(open(&bytes)).contains("rope_theta is -1, which is not supported"));
    Ok(())
}

/// The part in front of the values told otherwise, with a sum that is right.
fn resealed(zot: &[u8], change: impl FnOnce(&mut Value), columns: &[u8]) -> Result<Vec<u8>> {
    use std::io::{Read, Write};
    let mut plain = Vec::new();
    flate2::read::DeflateDecoder::new(&zot[12..]).read_to_end(&mut plain)?;
    let len = u32::from_le_bytes(plain[..4].try_into()?) as usize;
    let mut front: Value = serde_json::from_slice(&plain[4..4 + len])?;
    change(&mut front);
    let front = front.to_string();
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&(front.len() as u32).to_le_bytes())?;
    encoder.write_all(front.as_bytes())?;
    encoder.write_all(&plain[4 + len..])?;
    encoder.write_all(columns)?;
    let body = encoder.finish()?;
    Ok([&zot[..8], &crc32fast::hash(&body).to_le_bytes(), &body].concat())
}

#[test]
fn an_exported_trajectory_holds_what_it_says_and_no_more() -> Result<()> {
    if !alone("hostile::an_exported_trajectory_holds_what_it_says_and_no_more")? {
        return Ok(());
    }
    let work = workplace()?;
    done(work.path(), &format!("train {} --max-steps 12 --output-dir run", RUN))?;
    done(work.path(), "export run --trajectory run.zot")?;
    let zot = std::fs::read(work.path().join("run.zot"))?;
    assert_eq!(Trajectory::read(&zot)?.0.steps(), 12);
    let read = |change: &dyn Fn(&mut Value), columns: &[u8]| -> Result<String> {
        let bytes = resealed(&zot, change, columns)?;
        let (error, held) = zotune::base::memory::peak_of(|| refused(Trajectory::read(&bytes)));
        assert!(held < 64 << 20, "{held} bytes were held: {error}");
        Ok(error)
    };
    for counts in
        [json!([[1u64 << 63, 2], [12, 1]]), json!([[1u64 << 32, 1u64 << 32], [1, 12]]), json!([[0, u64::MAX], [1, 12]])]
    {
        let error = read(&|front| front["counts"] = counts.clone(), &[])?;
        assert!(error.contains("bytes of values, but announces another number"), "{error}");
    }
    let error = read(&|_| (), &vec![0; 200 << 20])?;
    assert!(error.contains("too much for a trajectory"), "{error}");
    let error = read(&|front| front["trajectory"]["header"]["config"]["num_directions"] = (1u64 << 63).into(), &[])?;
    assert!(error.contains("its header has values that no run can have: `num_directions` 9223372036854775808"), "{error}");
    let error = read(&|front| front["trajectory"]["header"]["config"]["eval_steps"] = 0.into(), &[])?;
    assert!(error.contains("`eval_steps` 0: it must be at least 1"), "{error}");
    Ok(())
}

#[test]
fn a_parquet_file_that_unfolds_to_gigabytes_is_refused() -> Result<()> {
    if !alone("hostile::a_parquet_file_that_unfolds_to_gigabytes_is_refused")? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("data.parquet");
    // One text in a dictionary, three thousand times.
    let text = "a film ".repeat(100_000);
    let labels = (0..3000).map(|i| i % 2).collect();
    write_parquet(&path, &[("text", Column::Texts(vec![text; 3000])), ("label", Column::Numbers(labels))], 3000)?;
    let len = path.metadata()?.len();
    assert!(len < 1 << 20, "{len} bytes");
    let (error, held) = zotune::base::memory::peak_of(|| refused(Task::of(None, Some(&path))));
    assert!(error.contains(&format!("the file is {len} bytes long, but its rows take more than")), "{error}");
    assert!(held < 64 << 20, "{held} bytes were held");
    Ok(())
}

/// RawArgs at their ends, and files that are not what they were: exit code 2 or as it was, never a panic.
#[test]
fn knobs_at_their_extremes_are_refused_by_name() -> Result<()> {
    let work = workplace()?;
    let refused = |words: &str, threads: Option<&str>, expected: &str| -> Result<()> {
        let mut command = zotune(work.path(), words);
        command.envs(threads.map(|threads| ("RAYON_NUM_THREADS", threads)));
        let output = command.output()?;
        let said = stderr(&output);
        assert!(output.status.code() == Some(2) && said.contains(expected), "{words}: {:?} {said}", output.status);
        Ok(())
    };
    let huge = 1u64 << 63;
    refused(
        "train --model opt-mini --prefix-tuning --num-prefix 512",
        None,
        "--num-prefix 512: the model supports at most 512 tokens",
    )?;
    refused(&format!("train {RUN} --prefix-tuning --num-prefix {huge}"), None, "--num-prefix 9223372036854775808")?;
    refused(&format!("train {RUN} --lora-r {huge}"), None, "--lora-r 9223372036854775808: the maximum is 65536")?;
    for knob in [
        "--num-directions",
        "--max-steps",
        "--batch-size",
        "--micro-batch-size",
        "--eval-steps",
        "--logging-steps",
        "--save-steps",
        "--warmup-steps",
        "--eval-batch-size",
        "--num-train",
        "--num-dev",
        "--num-eval",
        "--max-length",
    ] {
        let words = format!("plan {} {knob} {huge}", RUN);
        refused(&words, None, &format!("{knob} {huge}"))?;
    }
    refused("tasks list", Some("1000000"), "RAYON_NUM_THREADS=1000000: the maximum on this machine is")?;
    refused("tasks show x\u{1b}[31m", None, "x\\u001b[31m")?;
    Ok(())
}

#[test]
fn a_run_json_that_is_a_list_is_made_anew() -> Result<()> {
    let work = workplace()?;
    done(work.path(), &format!("train {} --max-steps 6 --output-dir run", RUN))?;
    std::fs::write(work.path().join("run/run.json"), "[]")?;
    done(work.path(), "train --resume run --max-steps 12")?;
    let run: Value = serde_json::from_slice(&std::fs::read(work.path().join("run/run.json"))?)?;
    assert_eq!(run["resumed"].as_array().map(Vec::len), Some(1));
    Ok(())
}

/// Escape sequences in what files say do not reach the terminal: errors, warnings and the example that is shown.
#[test]
fn what_files_say_is_shown_and_not_obeyed() -> Result<()> {
    let work = workplace()?;
    let row = |i: usize| format!("{{\"text\": \"film {i} \\u001b]0;owned\\u0007\", \"label\": \"{}\\u001b[2J\"}}\n", i % 2);
    std::fs::write(work.path().join("data.jsonl"), (0..60).map(row).collect::<String>())?;
    let words = "train --model model --data data.jsonl --max-steps 1 --batch-size 2 --threads 1 --output-dir run -v";
    let output = zotune(work.path(), words).output()?;
    assert!(output.status.success(), "{}", stderr(&output));
    std::fs::write(work.path().join("bad.jsonl"), "{\"text\": 1, \"la\u{1b}[31mbel\": 2}\n")?;
    let other = zotune(work.path(), "eval --model model --data bad.jsonl").output()?;
    assert!(!other.status.success());
    edit(&work.path().join("model"), "config.json", |config| {
        drop(config.insert("\u{1b}[31mred".into(), "\u{1b}[0m".into()))
    })?;
    let third = zotune(work.path(), "eval --model model --data data.jsonl").output()?;
    assert!(stderr(&third).contains("u{1b}[31mred") || stderr(&third).contains("\\u001b[31mred"));
    for output in [output, other, third] {
        let escapes = |bytes: &[u8]| bytes.iter().any(|byte| *byte < 0x20 && !b"\n\t".contains(byte));
        assert!(!escapes(&output.stderr) && !escapes(&output.stdout), "{:?}", stderr(&output));
    }
    Ok(())
}
