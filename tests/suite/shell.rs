//! What shells, editors and readers get: completions, manual pages, the schema of config files, the table of methods, an
//! example of a task.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use zotune::zo::METHODS;

use crate::support::{call, done, says, skipped, zotune};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

const VERBS: [&str; 8] = ["train", "plan", "eval", "replay", "export", "sweep", "tasks", "methods"];

fn printed(words: &str) -> Result<String> {
    Ok(String::from_utf8(done(Path::new(ROOT), words)?.stdout)?)
}

/// Each shell's script has the verbs and the names that an option takes, and bash parses its own.
#[test]
fn completions_know_verbs_and_names() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        let script = printed(&format!("completions {shell}"))?;
        for name in VERBS.into_iter().chain(["r-adazo", "sst2", "opt-mini", "early-stopping-patience"]) {
            assert!(script.contains(name), "{shell}: {name}");
        }
        let folder = tempfile::tempdir()?;
        let place = folder.path().join("completions");
        std::fs::write(&place, script)?;
        // Fish and bash read without executing by -n, zsh too.
        match Command::new(shell).arg("-n").arg(&place).output() {
            Ok(output) => assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}"),
            Err(_) => skipped(&format!("{shell} is not here to read its completions")),
        }
    }
    Ok(())
}

#[test]
fn every_verb_has_a_manual_page() -> Result<()> {
    for verb in VERBS {
        let page = printed(&format!("man {verb}"))?;
        assert!(page.contains(&format!(".TH zotune-{verb} 1")) && page.contains(".SH OPTIONS"), "{page}");
        assert!(printed("man")?.contains(&format!("zotune\\-{verb}(1)")));
    }
    says(Path::new(ROOT), "man trian", 2, "there is no command \"trian\": did you mean \"train\"?")
}

/// The checked-in schema is the program's, and each config of the repository follows it.
#[test]
fn the_schema_of_configs_is_checked_in() -> Result<()> {
    let said: Value = serde_json::from_str(&printed("schema")?)?;
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(Path::new(ROOT).join("docs/config.schema.json"))?)?;
    ensure!(said == kept, "write it anew: zotune schema > docs/config.schema.json");
    // By hand: one option of each type.
    for (name, is) in [("zo_eps", "number"), ("max_steps", "integer"), ("amsgrad", "boolean"), ("model", "string")] {
        assert_eq!(said["properties"][name]["type"], is, "{name}");
    }
    assert_eq!(said["properties"]["dtype"]["enum"], serde_json::json!(["f32", "f16", "bf16"]));
    let rate = serde_json::json!([{ "type": "number" }, { "type": "string", "enum": ["auto"] }]);
    assert_eq!(said["properties"]["learning_rate"]["anyOf"], rate);
    let examples = said["properties"]["optimizer"]["examples"].as_array().context("a list of methods")?;
    assert_eq!(examples.len(), METHODS.len());
    let folders = ["configs", "configs/methods"].map(|folder| std::fs::read_dir(Path::new(ROOT).join(folder)));
    let mut configs = 0;
    for entry in folders.into_iter().flatten().flatten() {
        let path = entry?.path();
        if path.extension().is_none_or(|kind| kind != "toml") {
            continue;
        }
        for (key, value) in std::fs::read_to_string(&path)?.parse::<toml::Table>()? {
            let option = &said["properties"][&key];
            let expected = option["type"].as_str().or(option["anyOf"][0]["type"].as_str());
            let expected = expected.with_context(|| format!("{}: {key}", path.display()))?;
            let fits = match value {
                toml::Value::Integer(_) => ["integer", "number"].contains(&expected),
                value => value.type_str().replace("float", "number") == expected,
            };
            assert!(fits, "{}: {key} is no {expected}", path.display());
        }
        configs += 1;
    }
    assert!(configs > 10);
    Ok(())
}

#[test]
fn each_method_is_explained_with_each_of_its_options() -> Result<()> {
    let all = printed("methods")?;
    for method in METHODS {
        assert!(all.contains(&format!("\n{}", method.name)) && all.contains(method.source), "{}", method.name);
        let one = printed(&format!("methods {}", method.name))?;
        for option in method.options() {
            assert!(one.contains(&format!("\n  --{option}\n      ")), "{}: {option}", method.name);
        }
    }
    // Algorithm 2 of arXiv 2502.01014, and its default learning rate for a million weights and 1,000 steps: 3 x 0.175 / (100 x 31.6).
    let r_adazo = printed("methods r-adazo")?;
    assert!(r_adazo.contains("m = 0.9 m + 0.1 g; v = 0.99 v + 0.01 m^2; theta -= lr m / sqrt(v + 1e-8)"), "{r_adazo}");
    assert!(r_adazo.contains("3 x 0.175 / (cbrt(d) sqrt(T)) = 1.66e-4 here"), "{r_adazo}");
    says(Path::new(ROOT), "methods r-adzo", 2, "did you mean \"r-adazo\"?")
}

/// The tokens shown are the prompt and its right answer.
#[test]
fn an_example_is_shown_token_by_token() -> Result<()> {
    let said = printed("tasks show reviews --example")?;
    let field = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).context("a field");
    let text = |quoted: &str| -> Result<String> { Ok(serde_json::from_str(quoted)?) };
    let answer = said.lines().find(|line| line.contains("(the right one)")).context("a right answer")?;
    let answer = text(answer.trim_start_matches("answer").trim_end_matches("(the right one)").trim())?;
    let tokens: Vec<&str> = said.lines().skip_while(|line| !line.starts_with("tokens")).skip(1).collect();
    let pieces = tokens.iter().filter_map(|line| line.split_whitespace().nth(2));
    let joined: String = pieces.take(tokens.len() - 1).skip(1).collect();
    assert_eq!(joined.replace('\u{120}', " "), text(field("prompt")?)? + &answer, "{said}");
    assert_eq!(tokens.iter().filter(|line| line.ends_with("scored")).count(), 1);
    says(Path::new(ROOT), "tasks show nope --example", 2, "nope")?;
    // A model of another vocabulary splits the text in another way.
    let output = call(Path::new(ROOT), &["tasks", "show", "reviews", "--example", "--model", "no/such/folder"])?;
    assert!(!output.status.success());
    ensure!(zotune(Path::new(ROOT), "tasks show reviews --model opt-mini").output()?.status.code() == Some(2));
    Ok(())
}
