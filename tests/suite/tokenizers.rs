//! Tokens of a text as transformers makes them of the same folder (scripts/make_tokenizers.py), and folders that are refused.

use std::path::Path;

use anyhow::{Result, anyhow};
use serde_json::{Map, Value, json};
use zotune::base::{Source, Table, Use};
use zotune::data::Example;
use zotune::data::task::PromptedRow;
use zotune::data::tokenizer::Tokenizer;
use zotune::model::builtin::OPT_MINI;

use crate::support::{fixture_json, tokens};

/// What tests/fixtures/tokenizers.json holds.
struct Fixture(Value);

impl Fixture {
    fn read() -> Result<Self> {
        Ok(Fixture(fixture_json("tokenizers.json")?))
    }

    fn cases(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0["cases"].as_array().into_iter().flatten().map(|case| (case["name"].as_str().unwrap(), case))
    }

    /// The files of a case.
    fn files(&self, name: &str) -> Map<String, Value> {
        let case = self.cases().find(|(own, _)| *own == name).unwrap_or_else(|| panic!("no case {name}")).1;
        case["files"].as_object().unwrap().clone()
    }

    /// A folder with such files, in which a vocabulary's name stands for what it has.
    fn folder(&self, files: &Map<String, Value>) -> Result<tempfile::TempDir> {
        let folder = tempfile::tempdir()?;
        for (name, content) in files {
            std::fs::write(folder.path().join(name), self.content(name, content)?)?;
        }
        Ok(folder)
    }

    fn content(&self, name: &str, content: &Value) -> Result<String> {
        let vocabulary = |name: &Value| {
            let found = &self.0["vocabularies"][name.as_str().unwrap()];
            let tokens = found["tokens"].as_array().unwrap().iter().enumerate();
            let tokens: Map<_, _> = tokens.map(|(id, token)| (token.as_str().unwrap().to_string(), id.into())).collect();
            (tokens, found["merges"].as_array().unwrap().clone())
        };
        Ok(match (name, content) {
            ("vocab.json", Value::String(_)) => Value::Object(vocabulary(content).0).to_string(),
            ("merges.txt", Value::String(_)) => {
                let merges = vocabulary(content).1;
                "#version: 0.2\n".to_string()
                    + &merges.iter().map(|m| format!("{}\n", m.as_str().unwrap())).collect::<String>()
            }
            ("tokenizer.json", _) if content["model"]["vocab"].is_string() => {
                let mut whole = content.clone();
                let (tokens, merges) = vocabulary(&content["model"]["vocab"]);
                whole["model"]["vocab"] = tokens.into();
                whole["model"]["merges"] = merges.into();
                whole.to_string()
            }
            (_, content) => content.to_string(),
        })
    }

    /// The tokenizer of a case.
    fn open(&self, name: &str) -> Result<Tokenizer> {
        let folder = self.folder(&self.files(name))?;
        open(folder.path())
    }

    /// What becomes of a case that is changed so.
    fn changed(&self, name: &str, change: impl FnOnce(&mut Map<String, Value>)) -> Result<Tokenizer> {
        let mut files = self.files(name);
        change(&mut files);
        open(self.folder(&files)?.path())
    }
}

/// The files of every case, each in a folder.
pub fn folders() -> Result<Vec<tempfile::TempDir>> {
    let fixture = Fixture::read()?;
    fixture.cases().map(|(name, _)| fixture.folder(&fixture.files(name))).collect()
}

fn open(folder: &Path) -> Result<Tokenizer> {
    Tokenizer::open(&Source::Folder(folder.into()), None)
}

fn refused(opened: Result<Tokenizer>) -> String {
    format!("{:#}", opened.err().expect("it opened"))
}

/// Every class, from vocab.json and from tokenizer.json, with what stands beside: the ids are transformers', but that what its
/// template puts in front is there once, and what it puts behind is not there.
#[test]
fn a_text_has_the_tokens_that_transformers_gives_it() -> Result<()> {
    let fixture = Fixture::read()?;
    let texts = fixture.0["texts"].as_array().unwrap();
    let (mut compared, mut once, mut wrong) = (0, 0, Vec::new());
    for (name, case) in fixture.cases() {
        let tokenizer = fixture.open(name).map_err(|e| e.context(name.to_string()))?;
        let front = tokens(&case["front"]);
        for (text, ids) in texts.iter().zip(case["ids"].as_array().unwrap()) {
            let (text, ids) = (text.as_str().unwrap(), tokens(ids));
            let begun = ids.starts_with(&front);
            let expected = if begun { ids } else { [&front[..], &ids].concat() };
            let found = tokenizer.encode(text)?;
            if found != expected && wrong.last().is_none_or(|last: &String| !last.starts_with(&format!("{name}: "))) {
                wrong.push(format!("{name}: {text:?} has {found:?}, transformers has {expected:?}"));
            }
            compared += 1;
            once += usize::from(begun && !front.is_empty());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 800 && once > 10, "{compared} texts, {once} of them with their begin token");
    Ok(())
}

/// --bos-id takes the place of whatever is put in front.
#[test]
fn a_begin_token_that_is_asked_for_is_the_one_in_front() -> Result<()> {
    let fixture = Fixture::read()?;
    for name in ["opt", "two tokens in front", "qwen2", "llama 2"] {
        let folder = fixture.folder(&fixture.files(name))?;
        let asked = Tokenizer::open(&Source::Folder(folder.path().into()), Some(7))?.encode("film")?;
        let own = open(folder.path())?.encode("film")?;
        let body = &own[tokens(&fixture.cases().find(|case| case.0 == name).unwrap().1["front"]).len()..];
        assert_eq!(asked, [&[7], body].concat(), "{name}");
    }
    Ok(())
}

fn row(prompt: &str, answers: &[&str]) -> PromptedRow {
    PromptedRow {
        index: 0,
        place: "data.tsv, line 2".into(),
        prompt: prompt.into(),
        answered: answers.iter().map(|answer| format!("{prompt}{answer}")).collect(),
        label: 0,
    }
}

/// A template that ends in an end token: it is the answer's tokens that are scored, with or without it the same.
#[test]
fn a_templates_end_token_is_not_the_answer() -> Result<()> {
    let fixture = Fixture::read()?;
    let (with, without) = (fixture.open("an end token behind")?, fixture.open("llama 3")?);
    let row = row("the film was", &[" great", " terrible"]);
    let example = Example::encode(&row, &with, 64)?;
    assert_eq!(example, Example::encode(&row, &without, 64)?);
    let prompt = with.encode(&row.prompt)?;
    for (candidate, text) in example.candidates.iter().zip(&row.answered) {
        let whole = with.encode(text)?;
        assert_eq!((&candidate.tokens, candidate.option_len), (&whole, whole.len() - prompt.len()));
        assert!(candidate.option_len > 0 && !whole.contains(&2));
    }
    Ok(())
}

/// A begin token in the prompt's own text, of a chat template's say, changes nothing of what is scored.
#[test]
fn a_prompt_that_begins_with_the_begin_token_has_it_once() -> Result<()> {
    let fixture = Fixture::read()?;
    let tokenizer = fixture.open("llama 3")?;
    let plain = Example::encode(&row("the film was", &[" great", " bad"]), &tokenizer, 64)?;
    let begun = Example::encode(&row("<s>the film was", &[" great", " bad"]), &tokenizer, 64)?;
    assert_eq!(begun.candidates, plain.candidates);
    assert_eq!(plain.candidates[0].tokens.iter().filter(|id| **id == 0).count(), 1);
    Ok(())
}

/// Gemma 3 and Code Llama have tokens for which their embeddings have no rows: a text that has one is refused, others are not.
#[test]
fn a_token_without_a_row_is_refused_where_a_text_has_it() -> Result<()> {
    let fixture = Fixture::read()?;
    let rows = fixture.0["vocabularies"]["pieces"]["tokens"].as_array().unwrap().len();
    for (name, token, id, has) in [
        ("gemma 3, an image token more", "<image_soft_token>", rows + 1, rows + 1),
        ("code llama", "<FILL_ME>", rows + 4, rows + 4),
    ] {
        let tokenizer = fixture.open(name)?.with_rows(has);
        assert!(!tokenizer.encode("the film\n\n <mask>")?.is_empty());
        let rows = [row("the film", &[" was", " is"]), row(&format!("an {token} of"), &[" it", " one"])];
        let error = format!("{:#}", Example::encode_all(&rows, &tokenizer, 64).unwrap_err());
        let expected = format!("data.tsv, line 2: {token:?} is token {id}, but the model's embedding has only {has} rows");
        assert!(error.contains(&expected), "{error}");
        assert!(Example::encode_all(&rows[..1], &tokenizer, 64).is_ok());
    }
    // With a row it is no token for a text either: transformers makes another text of it.
    let error = fixture.open("code llama")?.encode("an <FILL_ME> of").unwrap_err().to_string();
    assert!(error.contains("<FILL_ME> asks Code Llama to fill a gap"), "{error}");
    Ok(())
}

/// What completions end in: the tokenizer's end token, if generation stops at it.
#[test]
fn the_end_token_is_one_that_generation_stops_at() -> Result<()> {
    let fixture = Fixture::read()?;
    let end = |name: &str, config: Value, generation: Option<Value>| -> Result<Option<u32>> {
        let tokenizer = fixture.changed(name, |files| {
            files["config.json"].as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
            files.extend(generation.map(|content| ("generation_config.json".to_string(), content)));
        })?;
        Ok(tokenizer.with_rows(400).end())
    };
    // transformers' own eos_token, where nothing says at what generation stops.
    for (name, case) in fixture.cases() {
        let expected = case["eos"].as_u64().map(|id| id as u32).filter(|id| *id < 400);
        assert_eq!(end(name, json!({}), None)?, expected, "{name}");
    }
    let stops = |ids: Value| json!({ "eos_token_id": ids });
    assert_eq!(end("llama 3", stops(json!([5, 2, 6])), None)?, Some(2));
    assert_eq!(end("llama 3", stops(json!([5, 6])), None)?, Some(5));
    assert_eq!(end("llama 3", stops(json!(5)), Some(stops(json!([6, 2]))))?, Some(2));
    assert_eq!(end("llama 3", stops(json!(5)), Some(json!({ "do_sample": true })))?, Some(5));
    assert_eq!(end("llama 3, nothing beside", stops(json!(3)), None)?, Some(3));
    assert_eq!(end("llama 3, nothing beside", json!({ "eos_token_id": null }), None)?, None);
    // One without a row in the embedding cannot be taught.
    assert_eq!(end("llama 3", stops(json!([400])), None)?, None);
    let error = end("llama 3", stops(json!("</s>")), None).unwrap_err();
    assert!(error.to_string().contains("config.json: eos_token_id is \"</s>\", which is not a token id"), "{error}");
    Ok(())
}

/// Where two files do not agree, or a model lacks what it was trained with, the program says what it does.
#[test]
fn what_is_done_otherwise_than_a_file_says_is_said() -> Result<()> {
    let fixture = Fixture::read()?;
    for (name, expected) in [
        ("opt", ""),
        ("opt, nothing but its type", "put no token before a text, but OPT was trained with its begin token there"),
        (
            "opt, a space in front, no begin token, an end token",
            "add_eos_token is true, but zotune leaves the end token off",
        ),
        ("an end token behind", "its template ends every text with </s>; zotune leaves this token off"),
        (
            "llama 3, add_bos_token is not heard",
            "add_bos_token is false, but model/tokenizer.json puts the begin token before a text",
        ),
        ("digits that GPT-2's class does not set apart", "rebuilds this tokenizer as GPT2Tokenizer and does not split"),
        ("llama 3", ""),
        ("llama 2", ""),
        ("gemma", ""),
        ("qwen2, a tokenizer.json", "eos_token is 382, but generation does not stop at it (eos_token_id is [2])"),
    ] {
        let place = tempfile::tempdir()?;
        let mut files = fixture.files(name);
        files.remove("config.json");
        std::fs::rename(fixture.folder(&files)?.keep(), place.path().join("model"))?;
        for own in ["config.json", "model.safetensors"] {
            std::fs::write(place.path().join("model").join(own), OPT_MINI.read(own)?.unwrap())?;
        }
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_zotune"))
            .args(["eval", "--model", "model", "--task", "reviews", "--num-eval", "2"])
            .current_dir(place.path())
            .env_remove("RUST_LOG")
            .output()?;
        let said = String::from_utf8(output.stderr)?;
        assert!(output.status.success() && said.contains(expected), "{name}: {said:?} does not say {expected:?}");
        let disagrees = ["tokenizer", "token"].iter().any(|word| said.contains(word));
        assert!(disagrees != expected.is_empty(), "{name}: {said}");
    }
    Ok(())
}

/// What is not understood is refused by name, with what to do.
#[test]
fn what_is_not_understood_of_a_tokenizer_is_refused() -> Result<()> {
    let fixture = Fixture::read()?;
    let config = |name: &str, key: &str, value: Value| {
        refused(fixture.changed(name, |files| {
            let config = files.entry("tokenizer_config.json").or_insert(json!({}));
            config.as_object_mut().unwrap().insert(key.into(), value);
        }))
    };
    let own = |name: &str, pointer: &str, value: Value| {
        refused(fixture.changed(name, |files| {
            let file = files.get_mut("tokenizer.json").unwrap();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            file.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.into(), value);
        }))
    };
    let alone = |name: &str, content: &str| {
        let folder = fixture.folder(&Map::from_iter([("config.json".into(), json!({ "model_type": "llama" }))])).unwrap();
        std::fs::write(folder.path().join(name), content).unwrap();
        refused(open(folder.path()))
    };
    let of_llama = |name: &str| {
        refused(fixture.changed(name, |files| drop(files.insert("config.json".into(), json!({ "model_type": "llama" })))))
    };
    for (said, expected) in [
        (
            config("opt", "tokenizer_class", json!("T5Tokenizer")),
            "tokenizer_class is \"T5Tokenizer\", which zotune does not know",
        ),
        (config("opt", "tokenizer_class", json!("LlamaTokenizer")), "vocab.json does not say how text is cut"),
        (of_llama("qwen2, nothing but its type"), "\"tokenizer_class\": \"GPT2Tokenizer\" or \"Qwen2Tokenizer\""),
        (
            alone("tokenizer.model", "x"),
            "tokenizer.model (SentencePiece or tiktoken) instead; to create it with transformers",
        ),
        (alone("vocab.json", "{}"), "tokenizer.json is missing, and vocab.json or merges.txt is missing too"),
        (alone("tokenizer.json", "[]"), "tokenizer.json is not a JSON object"),
        (config("opt", "add_bos_token", json!("yes")), "add_bos_token is \"yes\"; it must be true or false"),
        (config("opt", "fix_mistral_regex", json!(true)), "fix_mistral_regex is true, which is not supported"),
        (
            config("qwen3, a space in front and a begin token", "auto_map", json!({ "AutoTokenizer": ["a.B", null] })),
            "auto_map is {",
        ),
        (config("opt", "added_tokens_decoder", json!({ "x": { "content": "a" } })), "\"x\" is not a token id"),
        (
            config("opt", "added_tokens_decoder", json!({ "999": { "content": "<a>" } })),
            "\"<a>\" should be token 999, but transformers makes it 380",
        ),
        (
            config("opt", "added_tokens_decoder", json!({ "5": { "content": "<a>", "weight": 2 } })),
            "weight is 2, but zotune does not know this field",
        ),
        (
            config("opt", "extra_special_tokens", json!({ "b_token": "<b>", "a_token": "<a>" })),
            "no file says which ids they have",
        ),
        (config("opt", "bos_token", json!(5)), "5 is not a token"),
        (own("llama 3", "/model/dropout", json!(0.1)), "model, BPE: dropout is 0.1, which is not supported; it must be 0"),
        (own("llama 3", "/model/sampling", json!(true)), "sampling is true, but zotune does not know this field"),
        (own("llama 3", "/version", json!("2.0")), "tokenizer.json: version is \"2.0\""),
        (own("llama 3", "/encoder", json!({})), "tokenizer.json: encoder is {}, but zotune does not know this field"),
        (
            own("llama 3", "/pre_tokenizer/pretokenizers", json!([{ "type": "Splitt" }])),
            "zotune does not know the type \"Splitt\"",
        ),
        (own("llama 3", "/pre_tokenizer/pretokenizers", json!([{ "behavior": "x" }])), "has no \"type\""),
        (own("mistral", "/normalizer/normalizers/0/front", json!("x")), "normalizer, Prepend: front is \"x\""),
        (own("gemma", "/model/type", json!("Unigram")), "but zotune does not know this field"),
    ] {
        assert!(said.contains(expected), "{said:?} does not say {expected:?}");
    }
    // An added token whose id is not what it says.
    let said = refused(fixture.changed("llama 3", |files| {
        files["tokenizer.json"]["added_tokens"][0]["id"] = 7.into();
        files["tokenizer_config.json"].as_object_mut().unwrap().remove("added_tokens_decoder");
    }));
    assert!(said.contains("\"<s>\" should be token 7, but transformers makes it 0"), "{said}");
    // A template that says a text twice.
    let said = own("llama 3", "/post_processor/processors", {
        let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
        json!([{ "type": "TemplateProcessing", "single": [text, text], "pair": [text], "special_tokens": {} }])
    });
    assert!(said.contains("repeats the text 2 times") || said.contains("tokenizer.json"), "{said}");
    Ok(())
}

/// Every field of each table with a value that it does not know, and one that no table knows.
#[test]
fn the_tables_refuse_what_they_do_not_know() -> Result<()> {
    use zotune::data::tokenizer::tables::{
        ADDED_TOKEN, COMPONENTS, GENERATION_CONFIG, SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG, TOKENIZER_JSON,
    };
    let own = [TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKEN, GENERATION_CONFIG, TOKENIZER_JSON];
    let (mut refusals, mut passed) = (0, 0);
    for table in own.iter().chain(COMPONENTS) {
        let check = |name: &str, value: Value| {
            let object = Map::from_iter([(name.to_string(), value)]);
            zotune::base::fields::check(std::slice::from_ref(table), "a file", &object).map_err(|e| anyhow!("{e:#}"))
        };
        for (name, what, _) in table.fields {
            let odd = check(name, json!("some other value"));
            assert!(check(name, Value::Null).is_ok(), "{name}");
            match what {
                Use::Read | Use::NoEffect => passed += usize::from(odd.is_ok()),
                Use::Only(_) | Use::Refused => {
                    let said = odd.unwrap_err().to_string();
                    assert!(said.starts_with(&format!("a file: {name} is \"some other value\", which is not")), "{said}");
                    refusals += 1;
                }
            }
            if let Use::Only(values) = what {
                values.iter().try_for_each(|value| check(name, serde_json::from_str(value)?))?;
            }
        }
        let said = check("a_field_of_tomorrow", json!(1)).unwrap_err().to_string();
        assert!(said.contains("a_field_of_tomorrow is 1, but zotune does not know this field"), "{said}");
        let names: std::collections::BTreeSet<&str> = table.fields.iter().map(|field| field.0).collect();
        assert_eq!(names.len(), table.fields.len(), "{} has a field twice", table.file);
    }
    assert!(refusals >= 6 && passed > 100, "{refusals} refused, {passed} passed");
    Ok(())
}

/// tokenizer_config.json as public models have it, each field but with a short value: none is refused.
#[test]
fn the_fields_of_public_models_are_known() -> Result<()> {
    let table: Table = zotune::data::tokenizer::tables::TOKENIZER_CONFIG;
    for (model, fields) in PUBLIC {
        for name in fields.split_whitespace() {
            let is_token = name.ends_with("_token") && !name.starts_with("add_");
            let known = table.fields.iter().any(|field| field.0 == name && field.1 != Use::Refused);
            assert!(known || is_token, "{model}: {name}");
        }
    }
    Ok(())
}

/// Fields that tokenizer_config.json has in repositories of these models.
const PUBLIC: &[(&str, &str)] = &[
    (
        "OPT",
        "errors unk_token bos_token eos_token pad_token add_prefix_space add_bos_token special_tokens_map_file name_or_path \
         tokenizer_class",
    ),
    (
        "LLaMA 2, TinyLlama",
        "add_bos_token add_eos_token bos_token chat_template clean_up_tokenization_spaces eos_token legacy model_max_length \
         pad_token padding_side sp_model_kwargs tokenizer_class unk_token use_default_system_prompt added_tokens_decoder \
         add_prefix_space spaces_between_special_tokens",
    ),
    (
        "Vicuna",
        "add_bos_token add_eos_token bos_token clean_up_tokenization_spaces eos_token model_max_length pad_token sp_model_kwargs \
         tokenizer_class unk_token do_lower_case do_basic_tokenize never_split start_n_top end_n_top mask_token cls_token \
         sep_token strip_accents handle_chinese_chars wordpieces_prefix",
    ),
    (
        "Code Llama",
        "added_tokens_decoder additional_special_tokens bos_token clean_up_tokenization_spaces eos_token eot_token fill_token \
         legacy middle_token model_max_length pad_token prefix_token sp_model_kwargs suffix_first suffix_token tokenizer_class \
         unk_token use_default_system_prompt",
    ),
    (
        "LLaMA 3, SmolLM2, unsloth's",
        "added_tokens_decoder additional_special_tokens bos_token chat_template clean_up_tokenization_spaces eos_token \
         extra_special_tokens model_input_names model_max_length pad_token padding_side tokenizer_class unk_token vocab_size \
         add_prefix_space backend is_local local_files_only",
    ),
    (
        "Mistral",
        "add_bos_token add_eos_token add_prefix_space added_tokens_decoder additional_special_tokens bos_token chat_template \
         clean_up_tokenization_spaces eos_token legacy model_max_length pad_token sp_model_kwargs \
         spaces_between_special_tokens tokenizer_class unk_token use_default_system_prompt",
    ),
    (
        "Qwen2, Qwen2.5, Qwen3",
        "add_bos_token add_prefix_space added_tokens_decoder additional_special_tokens bos_token chat_template \
         clean_up_tokenization_spaces eos_token errors model_max_length pad_token split_special_tokens tokenizer_class unk_token",
    ),
    (
        "Gemma 1 to 3",
        "add_bos_token add_eos_token added_tokens_decoder additional_special_tokens boi_token bos_token chat_template \
         clean_up_tokenization_spaces eoi_token eos_token extra_special_tokens image_token legacy model_max_length pad_token \
         processor_class sp_model_kwargs spaces_between_special_tokens tokenizer_class unk_token use_default_system_prompt \
         mask_token response_schema",
    ),
];
