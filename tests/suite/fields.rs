//! What is made of each field of the files that others write: the tables against transformers', PEFT's and gguf's own lists
//! (tests/fixtures/fields.json, made by scripts/list_fields.py), against config.json of public models, and docs/fields.md against
//! the tables.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use candle_core::DType;
use serde_json::{Map, Value, json};
use zotune::base::{Source, Table, Use};
use zotune::model::Model;
use zotune::model::adapter::Adapter;

use crate::support::{FIXTURES, copy_of, edit, fixture, fixture_json};

/// Every table, in the order of docs/fields.md.
fn tables() -> Vec<Table> {
    let of_tokens = [
        &[zotune::data::tokenizer::tables::GENERATION_CONFIG, zotune::data::tokenizer::tables::TOKENIZER_CONFIG][..],
        &[
            zotune::data::tokenizer::tables::SPECIAL_TOKENS_MAP,
            zotune::data::tokenizer::tables::ADDED_TOKEN,
            zotune::data::tokenizer::tables::TOKENIZER_JSON,
        ],
        zotune::data::tokenizer::tables::COMPONENTS,
    ];
    [
        &zotune::model::kinds::TABLES[..],
        &of_tokens.concat(),
        &zotune::model::adapter::peft::TABLES[..],
        &zotune::formats::gguf::fields::TABLES[..],
    ]
    .concat()
}

/// docs/fields.md.
fn document() -> String {
    let mut text = String::from(
        "# What is read, and what is not\n\nOf the files that others write, every field is one of these, and a test holds this page to the tables that the program \
         acts on\n(`ZOTUNE_WRITE_DOCS=1 cargo test --release --test suite fields::` writes it anew):\n\n\
         - **read**: acted on; a value that is not known is refused.\n\
         - **no effect**: nothing that a score depends on, whatever it says.\n\
         - **only**: these values are known, another is refused.\n\
         - **refused**: whatever it says, but for null.\n\n\
         A field that no table knows is refused by name, unless it is null.\n",
    );
    let mut file = "";
    for table in tables() {
        if table.file != file {
            file = table.file;
            let _ = write!(text, "\n## {file}\n");
        }
        let of = if table.of.is_empty() { "All" } else { table.of };
        let _ = write!(text, "\n{of}:\n\n| field | | |\n|---|---|---|\n");
        for (name, made_of, note) in table.fields {
            let made_of = match made_of {
                Use::Read => "read".into(),
                Use::NoEffect => "no effect".into(),
                Use::Only(values) => format!("only `{}`", values.join("`, `")),
                Use::Refused => "refused".to_string(),
            };
            let _ = writeln!(text, "| `{name}` | {made_of} | {note} |");
        }
    }
    text
}

#[test]
fn the_document_says_what_the_tables_say() -> Result<()> {
    let (path, text) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/fields.md"), document());
    if std::env::var_os("ZOTUNE_WRITE_DOCS").is_some() {
        std::fs::write(&path, &text)?;
    }
    let written = std::fs::read_to_string(&path)?;
    assert!(written == text, "docs/fields.md is not what the tables say; write it anew with ZOTUNE_WRITE_DOCS=1");
    for table in tables() {
        let names: BTreeSet<&str> = table.fields.iter().map(|field| field.0).collect();
        assert_eq!(names.len(), table.fields.len(), "{} {}: a field occurs twice", table.file, table.of);
    }
    Ok(())
}

fn known(tables: &[Table], name: &str) -> Option<Use> {
    tables.iter().flat_map(|table| table.fields).find(|field| field.0 == name).map(|field| field.1)
}

/// Every field of transformers' classes is in the tables of its architecture, and its default is no reason to refuse.
#[test]
fn transformers_fields_are_in_the_tables() -> Result<()> {
    let reference = fixture_json("fields.json")?;
    for kind in zotune::model::kinds::ARCHITECTURES {
        let tables = [&zotune::model::kinds::TABLES[..1], kind.fields].concat();
        let own = reference["config"][kind.name].as_object().unwrap();
        zotune::base::fields::check(&tables, kind.name, own)?;
        for name in own
            .keys()
            .map(String::as_str)
            .chain(reference["generation"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()))
        {
            assert!(known(&tables, name).is_some(), "{}: {name} is in no table", kind.name);
        }
        assert!(own.len() > 25);
    }
    assert_eq!(zotune::model::kinds::ARCHITECTURES.len(), reference["config"].as_object().unwrap().len());
    for (kind, tables) in [
        ("LORA", &zotune::model::adapter::peft::TABLES[..2]),
        ("PREFIX_TUNING", &[zotune::model::adapter::peft::TABLES[0], zotune::model::adapter::peft::TABLES[2]]),
    ] {
        let own = reference["adapter"][kind].as_object().unwrap();
        zotune::base::fields::check(tables, kind, own)?;
        for name in own.keys() {
            assert!(known(tables, name).is_some(), "{kind}: {name} is in no table");
        }
    }
    // The other way round for GGUF, whose list is of all architectures: no table has a name that there is not.
    let of = |kind: &str| -> BTreeSet<String> {
        reference["gguf"][kind].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_string()).collect()
    };
    let (architecture, tokenizer) = (of("architecture"), of("tokenizer"));
    // Older than the list, and llama.cpp's alone.
    let others = ["rope.scale_linear", "ggml.cls_token_id"];
    for (table, names) in [(0, &architecture), (1, &architecture), (2, &tokenizer)] {
        for (name, _, _) in zotune::formats::gguf::fields::TABLES[table].fields {
            assert!(names.contains(*name) || others.contains(name), "gguf has no key {name}");
        }
    }
    Ok(())
}

fn refusal(folder: &Path) -> Option<String> {
    Model::open_meta(&Source::Folder(folder.into()), DType::F32, None).err().map(|error| format!("{error:#}"))
}

/// In every architecture's config.json: a field that is not known, one that is refused, and another value than those that are known.
#[test]
fn what_is_not_understood_is_refused_by_name() -> Result<()> {
    let other = |values: &[&str]| -> Value {
        let known: Vec<Value> = values.iter().map(|json| serde_json::from_str(json).unwrap()).collect();
        let tried = [json!(true), json!(false), json!(7), json!("other"), json!(["other"])];
        tried.into_iter().find(|value| !known.contains(value)).unwrap()
    };
    let mut tried = 0;
    for name in FIXTURES {
        let config: Value = serde_json::from_slice(&std::fs::read(fixture(name).join("config.json"))?)?;
        let kind = zotune::model::kinds::ARCHITECTURES.iter().find(|kind| kind.name == config["model_type"]).unwrap();
        let all = [&zotune::model::kinds::TABLES[..1], kind.fields].concat();
        let mut cases =
            vec![("a_field_of_tomorrow", json!(1)), ("hiden_size", json!(16)), ("attention_multiplier", json!(0.5))];
        for (field, made_of, _) in all.iter().flat_map(|table| table.fields) {
            match made_of {
                Use::Only(values) => cases.push((field, other(values))),
                Use::Refused => cases.push((field, json!({ "a": 1 }))),
                Use::Read | Use::NoEffect => {}
            }
        }
        for (field, value) in cases {
            let folder = copy_of(name)?;
            edit(folder.path(), "config.json", |config| drop(config.insert(field.into(), value.clone())))?;
            let error = refusal(folder.path()).unwrap_or_else(|| panic!("{name} with {field} {value} is read"));
            assert!(error.contains(field) && error.contains("config.json"), "{name} with {field}: {error}");
            // What is null was not said.
            edit(folder.path(), "config.json", |config| drop(config.insert(field.into(), Value::Null)))?;
            assert_eq!(refusal(folder.path()), None, "{name} with {field} null");
            tried += 1;
        }
    }
    assert!(tried > 150, "{tried}");
    Ok(())
}

/// Where config.json says nothing of positions, a window, heads of keys or their width, it is what transformers' class has.
#[test]
fn what_is_absent_is_what_transformers_takes() -> Result<()> {
    let reference = fixture_json("fields.json")?;
    let mut tried = 0;
    for (fixture_name, kind) in [
        ("llama-tiny", "llama"),
        ("llama-tiny", "mistral"),
        ("qwen2-tiny", "qwen2"),
        ("qwen3-tiny", "qwen3"),
        ("gemma-tiny", "gemma"),
        ("gemma2-tiny", "gemma2"),
        ("gemma3-tiny", "gemma3_text"),
    ] {
        let usual = &reference["config"][kind];
        let outline = |change: &dyn Fn(&mut Map<String, Value>)| -> Result<(usize, Vec<usize>)> {
            let folder = tempfile::tempdir()?;
            std::fs::copy(fixture(fixture_name).join("config.json"), folder.path().join("config.json"))?;
            edit(folder.path(), "config.json", |config| {
                // Sizes that every architecture's usual heads divide; the first block slides where any does.
                config.extend(
                    json!({ "model_type": kind, "num_attention_heads": 64, "hidden_size": 128 })
                        .as_object()
                        .unwrap()
                        .clone(),
                );
                change(config);
            })?;
            let (model, _, sizes) = Model::open_meta(&Source::Folder(folder.path().into()), DType::F32, None)?;
            Ok((model.shape().max_length, sizes))
        };
        for field in ["max_position_embeddings", "sliding_window", "num_key_value_heads", "head_dim", "tie_word_embeddings"]
        {
            // A window shows where there are more positions than it lets see.
            let positions = |config: &mut Map<String, Value>| {
                if field == "sliding_window" {
                    config.insert("max_position_embeddings".into(), 10_000.into());
                    let kinds = vec!["sliding_attention"; config["num_hidden_layers"].as_u64().unwrap() as usize];
                    config.insert("layer_types".into(), kinds.into());
                    if kind.starts_with("qwen") {
                        config.insert("use_sliding_window".into(), true.into());
                    }
                }
            };
            let Some(value) = usual.get(field).filter(|value| !value.is_null()) else { continue };
            let absent = outline(&|config| {
                positions(config);
                config.remove(field);
            })?;
            let said = outline(&|config| {
                positions(config);
                config.insert(field.into(), value.clone());
            })?;
            assert_eq!(absent, said, "{kind}: {field} is {value} where nothing is said");
            if field == "sliding_window" {
                assert_eq!(absent.0 as u64, value.as_u64().unwrap(), "{kind}");
            }
            tried += 1;
        }
    }
    assert!(tried > 25, "{tried}");
    Ok(())
}

/// config.json of public models, field by field as they are on the hub.
#[test]
fn public_models_are_read() -> Result<()> {
    let configs = fixture_json("configs.json")?;
    for (name, config) in configs.as_object().unwrap() {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("config.json"), config.to_string())?;
        let (model, _, sizes) = Model::open_meta(&Source::Folder(folder.path().into()), DType::F32, None)?;
        assert!(sizes.len() > 20, "{name}");
        let window = config["sliding_window"].as_u64().filter(|_| name.contains("v0.1") || name.contains("gemma"));
        let positions = config["max_position_embeddings"].as_u64().unwrap();
        assert_eq!(model.shape().max_length as u64, window.unwrap_or(positions), "{name}");
    }
    assert!(configs.as_object().unwrap().len() > 20);
    Ok(())
}

/// In an adapter's config: the same, for every field of PEFT's two classes.
#[test]
fn adapters_that_are_not_understood_are_refused_by_name() -> Result<()> {
    let mut tried = 0;
    for (name, own) in [
        ("llama-tiny-lora", zotune::model::adapter::peft::TABLES[1]),
        ("llama-tiny-prefix", zotune::model::adapter::peft::TABLES[2]),
    ] {
        let opened = |change: &dyn Fn(&mut Map<String, Value>)| -> Result<std::result::Result<Adapter, anyhow::Error>> {
            let (folder, from) = (tempfile::tempdir()?, fixture("adapters").join(name));
            for file in ["adapter_config.json", "adapter_model.safetensors"] {
                std::fs::copy(from.join(file), folder.path().join(file))?;
            }
            edit(folder.path(), "adapter_config.json", change)?;
            Ok(Adapter::open(folder.path()))
        };
        let mut cases = vec![("a_field_of_tomorrow", json!(1))];
        for (field, made_of, _) in zotune::model::adapter::peft::TABLES[0].fields.iter().chain(own.fields) {
            match made_of {
                Use::Only(_) | Use::Refused => cases.push((field, json!(["other"]))),
                Use::Read | Use::NoEffect => {}
            }
        }
        for init in
            ["pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga"].iter().filter(|_| name.ends_with("lora"))
        {
            cases.push(("init_lora_weights", json!(init)));
        }
        for (field, value) in cases {
            let error = opened(&|config| drop(config.insert(field.into(), value.clone())))?.err();
            let error = error.unwrap_or_else(|| panic!("{name} with {field} {value} is read"));
            let error = format!("{error:#}");
            assert!(error.contains(field) && error.contains("adapter_config.json"), "{name} with {field}: {error}");
            tried += 1;
        }
        for init in [json!(true), json!(false), json!("gaussian"), json!("eva"), json!("orthogonal"), json!("mica")] {
            if name.ends_with("lora") {
                opened(&|config| drop(config.insert("init_lora_weights".into(), init.clone())))??;
            }
        }
    }
    assert!(tried > 25, "{tried}");
    Ok(())
}
