//! Weight files: every layout, saving and reading back, what loading holds, and what damaged files say.

use std::path::Path;

use anyhow::Result;
use candle_core::DType;
use zotune::base::Source;
use zotune::direction::Term;
use zotune::model::Model;

use crate::support::{FIXTURES, Llama, alone, copy_of, edit, fixture, open};

fn open_error(folder: &Path) -> String {
    format!("{:#}", Model::open(&Source::Folder(folder.into()), DType::F32).err().expect("it opened"))
}

#[test]
fn what_is_saved_is_read_back_to_the_bit_in_every_precision() -> Result<()> {
    for name in FIXTURES {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let folder = tempfile::tempdir()?;
            let (model, mut params) = Model::open(&Source::Folder(fixture(name)), dtype)?;
            params.perturb(&[Term::gaussian(1, 0.01)]);
            let file = folder.path().join("model.safetensors");
            model.save(params.settle()?, folder.path())?;
            model.write_companions(folder.path(), dtype, name)?;
            let bytes = |weights: zotune::params::Weights| -> Result<Vec<(String, Vec<u8>)>> {
                weights.iter().map(|(n, t)| Ok((n.to_string(), t.bytes().to_vec()))).collect()
            };
            let saved = bytes(params.settle()?)?;
            let (_, mut again) = Model::open(&Source::Folder(folder.path().into()), dtype)?;
            assert!(bytes(again.settle()?)? == saved, "{name} in {dtype:?}");
            // The same file back into weights that have moved on.
            params.perturb(&[Term::gaussian(2, 0.01)]);
            params.settle()?;
            model.restore(&mut params, folder.path())?;
            assert!(bytes(params.settle()?)? == saved, "{name} in {dtype:?}, restored");
            // The safetensors crate agrees that it is one, with PyTorch's mark.
            let whole = std::fs::read(&file)?;
            let (_, metadata) = safetensors::SafeTensors::read_metadata(&whole)?;
            assert_eq!(metadata.metadata().as_ref().and_then(|m| m.get("format")).map(String::as_str), Some("pt"));
        }
    }
    Ok(())
}

/// Loading holds the weights and at most one tensor more, stored in half or whole precision.
#[test]
fn loading_holds_the_weights_and_one_tensor() -> Result<()> {
    if !alone("checkpoints::loading_holds_the_weights_and_one_tensor")? {
        return Ok(());
    }
    let sizes = Llama { vocab: 4000, hidden: 256, inner: 1024, layers: 4, heads: 4, kv_heads: 4, tied: true };
    for stored in [DType::F32, DType::F16] {
        let (folder, _) = sizes.write(stored)?;
        let (opened, held) =
            zotune::base::memory::peak_of(|| Model::open(&Source::Folder(folder.path().into()), DType::F32));
        let (_, params) = opened?;
        let (weights, largest) = (params.bytes(), sizes.vocab * sizes.hidden * 4);
        assert!(held < weights + largest + (64 << 10), "{stored:?}: {held} bytes held for {weights} of weights");
    }
    Ok(())
}

#[test]
fn damaged_folders_say_what_is_wrong_and_where() -> Result<()> {
    let folder = copy_of("opt-tiny")?;
    let file = folder.path().join("model.safetensors");
    let whole = std::fs::read(&file)?;

    std::fs::write(&file, &whole[..whole.len() - 100])?;
    let error = open_error(folder.path());
    assert!(error.contains("model.safetensors") && error.contains("cut short"), "{error}");
    for cut in [0, 5, 8, 100] {
        std::fs::write(&file, &whole[..cut])?;
        assert!(open_error(folder.path()).contains("cut short"), "{cut} bytes: {}", open_error(folder.path()));
    }
    std::fs::write(&file, [b"not a safetensors file at all, but long enough".as_slice(); 40].concat())?;
    assert!(open_error(folder.path()).contains("not a safetensors file"));
    std::fs::remove_file(&file)?;
    assert!(open_error(folder.path()).contains("model.safetensors is missing"));
    std::fs::write(&file, &whole)?;

    edit(folder.path(), "config.json", |c| drop(c.insert("ffn_dim".into(), 48.into())))?;
    let error = open_error(folder.path());
    assert!(error.contains("fc1.weight") && error.contains("[32, 16]") && error.contains("[48, 16]"), "{error}");
    edit(folder.path(), "config.json", |c| {
        c.insert("ffn_dim".into(), 32.into());
        c.insert("num_hidden_layers".into(), 3.into());
    })?;
    let error = open_error(folder.path());
    assert!(error.contains("no tensor model.decoder.layers.2."), "{error}");
    edit(folder.path(), "config.json", |c| drop(c.insert("model_type".into(), "lama".into())))?;
    let error = open_error(folder.path());
    assert!(error.contains("zotune does not know the architecture \"lama\": did you mean \"llama\"?"), "{error}");
    edit(folder.path(), "config.json", |c| drop(c.remove("model_type")))?;
    assert!(open_error(folder.path()).contains("no \"model_type\""));
    std::fs::write(folder.path().join("config.json"), "{")?;
    assert!(open_error(folder.path()).contains("cannot read"));
    Ok(())
}

#[test]
fn damaged_pickles_and_indexes_are_errors_not_panics() -> Result<()> {
    let folder = copy_of("opt-350m-tiny")?;
    let file = folder.path().join("pytorch_model.bin");
    let whole = std::fs::read(&file)?;
    for cut in (0..whole.len()).step_by(997) {
        std::fs::write(&file, &whole[..cut])?;
        let error = open_error(folder.path());
        assert!(error.contains("pytorch_model.bin") && error.contains("cut short"), "{cut} bytes: {error}");
    }
    // A pickle that would run a command when unpickled is only parsed.
    let (evil, canary) = (tempfile::tempdir()?, folder.path().join("canary"));
    std::fs::copy(folder.path().join("config.json"), evil.path().join("config.json"))?;
    let pickle = format!("cos\nsystem\n(S'touch {}'\ntR.", canary.display());
    std::fs::write(evil.path().join("pytorch_model.bin"), pickle)?;
    open_error(evil.path());
    assert!(!canary.exists());

    let folder = copy_of("opt-untied-tiny")?;
    std::fs::remove_file(folder.path().join("model-00002-of-00002.safetensors"))?;
    assert!(open_error(folder.path()).contains("model-00002-of-00002.safetensors"));
    edit(folder.path(), "model.safetensors.index.json", |index| {
        index["weight_map"]["lm_head.weight"] = "../../etc/passwd".into();
    })?;
    assert!(open_error(folder.path()).contains("which is not a file beside it"));
    Ok(())
}

#[test]
fn integers_are_not_weights() -> Result<()> {
    let folder = copy_of("opt-tiny")?;
    let file = folder.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &candle_core::Device::Cpu)?;
    let name = "model.decoder.embed_positions.weight";
    let as_integers = tensors[name].to_dtype(DType::U8)?;
    tensors.insert(name.into(), as_integers);
    candle_core::safetensors::save(&tensors, &file)?;
    let error = open_error(folder.path());
    assert!(error.contains(name) && error.contains("stored as U8; f32, f16 and bf16 can be read"), "{error}");
    Ok(())
}

#[test]
fn both_spellings_of_the_keys_are_read() -> Result<()> {
    let (_, mut params) = open("opt-350m-tiny")?;
    assert!(params.settle()?.iter().all(|(name, _)| name.starts_with("model.decoder.")));
    Ok(())
}

/// What is half written or half removed goes, and what is behind the log; whatever else is in a run's folder stays.
#[test]
fn checkpoints_that_the_log_does_not_reach_are_removed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let make = || -> Result<()> {
        for name in [
            "checkpoint-5",
            "checkpoint-6",
            "checkpoint-90",
            "checkpoint-4.partial",
            "checkpoint-3.old",
            "checkpoint-x",
            "notes",
        ] {
            std::fs::create_dir_all(folder.path().join(name).join("inner"))?;
        }
        Ok(())
    };
    let left = |known| -> Result<Vec<String>> {
        make()?;
        zotune::run::checkpoint::clear(folder.path(), known)?;
        let entries = std::fs::read_dir(folder.path())?.collect::<std::io::Result<Vec<_>>>()?;
        let mut names: Vec<String> = entries.iter().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    };
    assert_eq!(left(Some(6))?, ["checkpoint-5", "checkpoint-6", "checkpoint-x", "notes"]);
    assert_eq!(left(Some(5))?, ["checkpoint-5", "checkpoint-x", "notes"]);
    assert_eq!(left(None)?, ["checkpoint-x", "notes"]);
    Ok(())
}
