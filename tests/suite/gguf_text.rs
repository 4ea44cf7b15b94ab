//! GGUF files: text is cut as the file says, and what is not understood is refused.

use anyhow::Result;
use candle_core::DType;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use serde_json::Value as Json;
use zotune::data::tokenizer::Tokenizer;
use zotune::model::Model;

use crate::support::gguf::{Gguf, error, text, texts};
use crate::support::{alone, fixture, fixture_json, numbers, tokens};

/// opt-mini's vocabulary cut in each way. The ids are from the tokenizers library with the steps that GPT-2's, SmolLM2's,
/// LLaMA 3's and Qwen2's own tokenizer.json have.
#[test]
fn text_is_cut_as_the_file_says() -> Result<()> {
    let number = "In 2024 it made 1234567 dollars, 10.5%";
    let expected: [(&str, &str, &[u32]); 10] = [
        ("gpt-2", number, &[2991, 2540, 754, 312, 697, 438, 21, 721, 929, 26, 3738, 599, 15, 1295, 17, 24, 8]),
        (
            "smollm",
            number,
            &[2991, 224, 21, 19, 21, 23, 312, 697, 224, 20, 21, 22, 23, 24, 25, 26, 3738, 599, 15, 224, 20, 19, 17, 24, 8],
        ),
        (
            "llama-bpe",
            number,
            &[2991, 224, 21, 1252, 23, 312, 697, 224, 708, 22, 23, 929, 26, 3738, 599, 15, 224, 654, 17, 24, 8],
        ),
        (
            "qwen2",
            number,
            &[2991, 224, 21, 19, 21, 23, 312, 697, 224, 20, 21, 22, 23, 24, 25, 26, 3738, 599, 15, 224, 20, 19, 17, 24, 8],
        ),
        (
            "gpt-2",
            "  a  film\n\n\nof   3 parts \n",
            &[224, 261, 224, 347, 202, 202, 202, 1304, 224, 224, 957, 2265, 224, 202],
        ),
        (
            "smollm",
            "  a  film\n\n\nof   3 parts \n",
            &[224, 261, 224, 347, 202, 202, 202, 1304, 224, 224, 224, 22, 2265, 224, 202],
        ),
        ("llama-bpe", "don't DON'T we'Ll", &[71, 283, 380, 419, 2656, 10, 55, 379, 10, 47, 79]),
        ("qwen2", "x=(a,b);!\n\n y", &[91, 32, 11, 68, 15, 69, 12, 30, 4, 202, 202, 341]),
        (
            "smollm",
            "cafe\u{301} ½ naïve 🙂",
            &[70, 68, 461, 140, 227, 224, 130, 125, 306, 68, 131, 111, 314, 224, 176, 257, 251, 228],
        ),
        (
            "qwen2",
            "cafe\u{301} ½ naïve 🙂",
            &[70, 3098, 1480, 224, 130, 125, 306, 68, 131, 111, 314, 224, 176, 257, 251, 228],
        ),
    ];
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    let mut file = Gguf::of(&fixture("llama-tiny"), "llama", GgmlDType::F32)?;
    for (pre, text, ids) in expected {
        file.set_opt_minis_vocabulary(pre)?;
        file.write(&path)?;
        let tokenizer = Tokenizer::open(&zotune::formats::gguf::folder::open(&path)?, None)?;
        assert_eq!(tokenizer.encode(text)?, [&[2], ids].concat(), "{pre}: {text}");
        assert_eq!(tokenizer.encode("a<pad>b")?[2], 1, "a special token is found in a text");
    }
    // opt-mini's own tokenizer is another way to the same.
    file.set_opt_minis_vocabulary("gpt-2")?;
    file.write(&path)?;
    let (found, own) = (
        Tokenizer::open(&zotune::formats::gguf::folder::open(&path)?, None)?,
        Tokenizer::open(&zotune::model::builtin::OPT_MINI, None)?,
    );
    for text in ["A fine film, isn't it?", "", " \n\t x  12 ½", "naïve 北京 🙂\r\n", "f(x) = x**2;"] {
        assert_eq!(found.encode(text)?, own.encode(text)?, "{text}");
    }
    // LLaMA 3's files need not say that a text begins with the begin token; the others' have to.
    for (pre, begins) in [("llama-bpe", true), ("smollm", false)] {
        file.set_opt_minis_vocabulary(pre)?;
        file.metadata.remove("tokenizer.ggml.add_bos_token");
        file.write(&path)?;
        let ids = Tokenizer::open(&zotune::formats::gguf::folder::open(&path)?, None)?.encode("film")?;
        assert_eq!(ids.first() == Some(&2), begins, "{pre}: {ids:?}");
    }
    Ok(())
}

/// SentencePiece's BPE, its merges found from the scores, against sentencepiece itself (scripts/make_sentencepiece.py).
#[test]
fn sentencepieces_are_found_as_sentencepiece_finds_them() -> Result<()> {
    let reference = fixture_json("sentencepiece.json")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    let mut file = Gguf::of(&fixture("llama-tiny"), "llama", GgmlDType::F32)?;
    for (name, prefix) in [("llama", true), ("gemma", false)] {
        let pieces = reference[name]["pieces"].as_array().unwrap();
        let part = |i: usize| pieces.iter().map(move |piece| &piece[i]);
        file.set("tokenizer.ggml.model", text("llama"));
        file.set("tokenizer.ggml.tokens", texts(part(0).filter_map(Json::as_str)));
        file.set("tokenizer.ggml.scores", Value::Array(part(1).map(|s| Value::F32(s.as_f64().unwrap() as f32)).collect()));
        file.set(
            "tokenizer.ggml.token_type",
            Value::Array(part(2).map(|t| Value::I32(t.as_i64().unwrap() as i32)).collect()),
        );
        file.set("tokenizer.ggml.bos_token_id", Value::U32(1));
        file.set("tokenizer.ggml.unknown_token_id", Value::U32(0));
        file.set("tokenizer.ggml.add_space_prefix", Value::Bool(prefix));
        file.write(&path)?;
        let tokenizer = Tokenizer::open(&zotune::formats::gguf::folder::open(&path)?, None)?;
        let texts = reference[name]["texts"].as_array().unwrap();
        for row in texts {
            let text = row["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text)?, [&[1], &tokens(&row["ids"])[..]].concat(), "{name}: {text:?}");
        }
        assert_eq!((pieces.len(), texts.len(), numbers(&texts[0]["ids"]).len() > 5), (420, 10, true));
    }
    Ok(())
}

#[test]
fn damaged_files_say_what_is_wrong() -> Result<()> {
    if !alone("gguf_text::damaged_files_say_what_is_wrong")? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    Gguf::of(&fixture("llama-tiny"), "llama", GgmlDType::F32)?.write(&path)?;
    let whole = std::fs::read(&path)?;
    for cut in (4..whole.len() - 32).step_by(101) {
        std::fs::write(&path, &whole[..cut])?;
        assert!(error(&path).contains("cut short"), "{cut} bytes: {}", error(&path));
    }
    let damaged = |place: usize, bytes: &[u8]| -> Result<String> {
        let mut damaged = whole.clone();
        damaged[place..place + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&path, damaged)?;
        Ok(error(&path))
    };
    assert!(
        !zotune::formats::gguf::folder::is_gguf(&fixture("logits.json"))
            && !zotune::formats::gguf::folder::is_gguf(folder.path())
    );
    assert!(damaged(0, b"GGML")?.contains("does not begin with GGUF"));
    assert!(damaged(4, &1u32.to_le_bytes())?.contains("version 1"));
    assert!(damaged(4, &3u32.to_be_bytes())?.contains("big-endian"));
    assert!(damaged(4, &90u32.to_le_bytes())?.contains("version 90; 2 and 3 can be read"));
    // Counts that no file has the bytes for allocate nothing.
    let ((), held) = zotune::base::memory::peak_of(|| {
        for (place, count) in [(8, u64::MAX), (8, 1 << 23), (16, 1 << 40), (16, 1 << 23), (24, 1 << 62), (24, 1 << 23)] {
            let error = damaged(place, &count.to_le_bytes()).unwrap();
            assert!(error.contains("cut short") || error.contains("damaged"), "{place}, {count}: {error}");
        }
    });
    assert!(held < 64 << 20, "{held}");
    // Any byte of the header turned over is an error or another model, never a panic.
    for place in (0..2000).step_by(3) {
        let mut damaged = whole.clone();
        damaged[place] ^= 0xff;
        std::fs::write(&path, damaged)?;
        let _ = zotune::formats::gguf::folder::open(&path).and_then(|source| Model::open(&source, DType::F32));
    }
    Ok(())
}

#[test]
fn files_that_are_not_understood_say_why() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    let with = |change: &dyn Fn(&mut Gguf)| -> Result<String> {
        let mut file = Gguf::of(&fixture("llama-tiny"), "llama", GgmlDType::F32)?;
        change(&mut file);
        file.write(&path)?;
        Ok(error(&path))
    };
    let set = |key: &'static str, value: Value| with(&move |file: &mut Gguf| file.set(key, value.clone()));
    let without = |key: &'static str| with(&move |file: &mut Gguf| drop(file.metadata.remove(key)));
    for (found, expected) in [
        (set("general.architecture", text("mamba"))?, "zotune does not read the architecture \"mamba\" from GGUF"),
        (set("general.architecture", text("lama"))?, "did you mean \"llama\"?"),
        (set("general.architecture", Value::U32(1))?, "general.architecture is Integer(1); it must be a text"),
        (without("general.architecture")?, "has no general.architecture"),
        (set("general.type", text("adapter"))?, "it is not a model; its type is \"adapter\""),
        (set("split.count", Value::U16(3))?, "--merge"),
        (set("llama.expert_count", Value::U32(8))?, "mixture of experts"),
        (without("llama.block_count")?, "has no llama.block_count"),
        (without("llama.attention.layer_norm_rms_epsilon")?, "has no llama.attention.layer_norm_rms_epsilon"),
        (set("llama.block_count", Value::I32(-1))?, "llama.block_count is -1, below 0"),
        (set("llama.block_count", Value::U32(u32::MAX))?, "num_hidden_layers is 4294967295"),
        (set("llama.block_count", Value::U32(3))?, "no tensor model.layers.2."),
        (set("llama.embedding_length", Value::U32(24))?, "config.json asks for [64, 24]"),
        (set("llama.rope.dimension_count", Value::U32(4))?, "rotary positions 4"),
        (set("llama.rope.scaling.type", text("yarn"))?, "scaled by \"yarn\""),
        (set("llama.rope.scaling.yarn_beta_fast", Value::F32(32.0))?, "under llama: rope.scaling.yarn_beta_fast"),
        (set("llama.rope.scaling.attn_factor", Value::F32(1.5))?, "rope.scaling.attn_factor is 1.5, which is not supported"),
        (set("llama.attention.causal", Value::Bool(false))?, "attention.causal is false, which is not supported"),
        (
            set("llama.attn_logit_softcapping", Value::F32(50.0))?,
            "attn_logit_softcapping is 50.0, but zotune does not know this field",
        ),
        (set("llama.attention.scale", Value::F32(0.5))?, "attention.scale is 0.5, which is not supported"),
        (
            set("llama.key_of_tomorrow", Value::U32(1))?,
            "under llama: key_of_tomorrow is 1, but zotune does not know this field",
        ),
        (set("tokenizer.ggml.key_of_tomorrow", Value::Bool(true))?, "under tokenizer: ggml.key_of_tomorrow"),
        (set("llama.attention.key_length_swa", Value::U32(4))?, "those of blocks that slide 4"),
        (set("tokenizer.ggml.pre", text("tekken"))?, "cuts text as \"tekken\" does"),
        (without("tokenizer.ggml.pre")?, "has no tokenizer.ggml.pre"),
        (set("tokenizer.ggml.model", text("t5"))?, "of the kind \"t5\""),
        (set("tokenizer.ggml.bos_token_id", Value::U32(64))?, "bos_token_id is 64, but it has 64 tokens"),
        (set("tokenizer.ggml.merges", texts(["ab"]))?, "not two pieces"),
        (set("tokenizer.ggml.merges", texts(["a b"]))?, "tokenizer.json"),
        (set("general.alignment", Value::U32(0))?, "general.alignment is 0"),
        (with(&|file| drop(file.tensors.remove("blk.1.ffn_up.weight")))?, "no tensor model.layers.1.mlp.up_proj.weight"),
        (with(&|file| drop(file.tensors.remove("token_embd.weight")))?, "no tensor token_embd.weight"),
    ] {
        assert!(found.contains(expected), "{found}, not {expected}");
    }
    // Types that are not read: the number behind the dimensions of the first tensor.
    Gguf::of(&fixture("llama-tiny"), "llama", GgmlDType::F32)?.write(&path)?;
    let whole = std::fs::read(&path)?;
    let name = b"blk.0.attn_k.weight";
    let place = whole.windows(name.len()).position(|bytes| bytes == name).unwrap() + name.len() + 4 + 2 * 8;
    for (number, named) in [(16u32, "IQ2_XXS"), (77, "type 77, which zotune does not know")] {
        let mut other = whole.clone();
        other[place..place + 4].copy_from_slice(&number.to_le_bytes());
        std::fs::write(&path, other)?;
        let error = error(&path);
        assert!(error.contains("self_attn.k_proj.weight") && error.contains(named) && error.contains("Q8_0"), "{error}");
    }
    Ok(())
}
