//! Tasks: prompts, splits, labels, data files.

use std::path::Path;

use anyhow::Result;
use sha2::{Digest, Sha256};
use zotune::base::Source;
use zotune::base::permutation::permutation;
use zotune::data::Example;
use zotune::data::task::{Sizes, Splits, Task};
use zotune::data::tokenizer::Tokenizer;

use crate::support::fixture_json;

fn folder(files: &[(&str, &str)]) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text)?;
    }
    Ok(folder)
}

fn splits(task: &Task, folder: &Path, num_train: usize, num_dev: usize) -> Result<Splits> {
    let sizes = Sizes { num_train: Some(num_train), num_dev: Some(num_dev), num_eval: None };
    task.splits(&task.data(Some(folder))?, sizes, 0)
}

#[test]
fn permutations_are_numpys_to_the_last_value() -> Result<()> {
    let reference = fixture_json("numpy_permutations.json")?;
    let mut checked = 0;
    for entry in reference["permutations"].as_array().into_iter().flatten() {
        let (seed, n) = (entry["seed"].as_u64().unwrap() as u32, entry["n"].as_u64().unwrap() as usize);
        let bytes: Vec<u8> = permutation(seed, n).into_iter().flat_map(|i| (i as i64).to_le_bytes()).collect();
        let hash: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hash, entry["sha256"].as_str().unwrap(), "seed {seed}, n {n}");
        checked += 1;
    }
    assert_eq!(checked, 24);
    Ok(())
}

#[test]
fn prompts_are_mezos() -> Result<()> {
    let copa = folder(&[
        (
            "train.jsonl",
            "{\"premise\": \"My body cast a shadow.\", \"choice1\": \"The sun was rising.\", \"choice2\": \"I was  tall.\", \"question\": \"cause\", \"label\": 0}\n\
             {\"premise\": \"It rained\", \"choice1\": \"I got wet.\", \"choice2\": \"Dust rose.\", \"question\": \"effect\", \"label\": 1}\n",
        ),
        (
            "val.jsonl",
            "{\"premise\": \"a.\", \"choice1\": \"b\", \"choice2\": \"c\", \"question\": \"cause\", \"label\": 0}",
        ),
    ])?;
    let found = splits(&Task::open("copa")?, copa.path(), 1, 1)?;
    let mut rows = [found.train, found.dev].concat();
    rows.sort_by_key(|r| r.index);
    assert_eq!(rows[0].prompt, "My body cast a shadow because");
    assert_eq!(rows[0].answered[0], "My body cast a shadow because the sun was rising.");
    assert_eq!(rows[0].answered[1], "My body cast a shadow because I was  tall.");
    assert_eq!((rows[1].prompt.as_str(), rows[1].label), ("It rained so", 1));
    assert_eq!(rows[1].answered[0], "It rained so I got wet.");

    let text = "{\"premise\": \"P.\", \"hypothesis\": \"H\", \"label\": \"LABEL\"}";
    for (task, labels, prompt, answers) in [
        ("rte", ["entailment", "not_entailment"], "P.\nDoes this mean that \"H\" is true? Yes or No?\n", ["Yes", "No"]),
        ("cb", ["entailment", "contradiction"], "Suppose P. Can we infer that \"H\"? Yes, No, or Maybe?\n", ["Yes", "No"]),
    ] {
        let [a, b] = labels.map(|l| text.replace("LABEL", l));
        let data = folder(&[("train.jsonl", &format!("{a}\n{b}")), ("val.jsonl", &a)])?;
        let found = splits(&Task::open(task)?, data.path(), 1, 1)?;
        for row in found.train.iter().chain(&found.dev).chain(&found.eval) {
            assert_eq!(row.prompt, prompt, "{task}");
            assert_eq!(row.answered[row.label], format!("{prompt}{}", answers[row.label]), "{task}");
        }
        assert_eq!(found.train[0].label + found.dev[0].label, 1, "{task}");
    }
    let text = "{\"text\": \"Mark told Pete. He lied.\", \"target\": {\"span1_text\": \"Mark\", \"span2_text\": \"He\"}, \"label\": LABEL}";
    let [no, yes] = ["false", "true"].map(|l| text.replace("LABEL", l));
    let data = folder(&[("train.jsonl", &format!("{no}\n{yes}")), ("val.jsonl", &yes)])?;
    let found = splits(&Task::open("wsc")?, data.path(), 1, 1)?;
    let prompt = "Mark told Pete. He lied.\nIn the previous sentence, does the pronoun \"he\" refer to Mark? Yes or No?\n";
    assert_eq!(found.eval[0].prompt, prompt);
    assert_eq!((found.eval[0].answered[1].as_str(), found.eval[0].label), (format!("{prompt}Yes").as_str(), 1));
    Ok(())
}

#[test]
fn dev_is_the_last_of_the_draw_and_sizes_follow_the_data() -> Result<()> {
    let rows: String = (0..40).map(|i| format!("sentence {i}\t{}\n", i % 2)).collect();
    let text = format!("sentence\tlabel\n{rows}");
    let data = folder(&[("train.tsv", &text), ("dev.tsv", &text)])?;
    let task = Task::open("sst2")?;
    let found = splits(&task, data.path(), 25, 10)?;
    let indices = |rows: &[zotune::data::task::PromptedRow]| rows.iter().map(|r| r.index).collect::<Vec<_>>();
    let order = permutation(0, 40);
    assert_eq!(indices(&found.train), order[..25]);
    assert_eq!(indices(&found.dev), order[25..35]);
    assert_eq!(indices(&found.eval), order);
    assert_eq!(found.train[0].prompt, format!("sentence {} It was", order[0]));
    // MeZO's numbers where nothing is asked for; they must leave something to train on.
    let error = task.splits(&task.data(Some(data.path()))?, Sizes::default(), 0).err().map(|e| e.to_string()).unwrap();
    assert!(error.contains("has 40 rows, but 1 + 500"), "{error}");
    let dev_only = Sizes { num_dev: Some(10), ..Sizes::default() };
    assert_eq!(task.splits(&task.data(Some(data.path()))?, dev_only, 0)?.train.len(), 30);
    Ok(())
}

#[test]
fn a_bad_row_is_named_by_file_and_line() -> Result<()> {
    for (text, expected) in [
        ("sentence\tlabel\nfine\t1\nodd\t2\n", "train.tsv, line 3: label \"2\" is not one of 0, 1"),
        ("sentence\tlabel\nfine\t1\nodd\t\n", "train.tsv, line 3: the row has no label"),
        ("sentence\tvalue\nfine\t1\n", "train.tsv has no column \"label\"; its columns are: sentence, value"),
        ("sentence\tlabel\n", "train.tsv has no rows"),
        ("sentence\tlabel\tlabel\nfine\t1\t1\n", "train.tsv has 2 columns named \"label\""),
        ("", "train.tsv has no column \"sentence\""),
    ] {
        let data = folder(&[("train.tsv", text), ("dev.tsv", "sentence\tlabel\na\t0\n")])?;
        let error = splits(&Task::open("sst2")?, data.path(), 1, 1).err().map(|e| format!("{e:#}")).unwrap();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    }
    Ok(())
}

#[test]
fn the_built_in_sentences_are_balanced_and_disjoint() -> Result<()> {
    let task = Task::open("reviews")?;
    let found = task.splits(&task.data(None)?, Sizes::default(), 0)?;
    assert_eq!((found.train.len(), found.dev.len(), found.eval.len()), (300, 100, 200));
    let positive = |rows: &[zotune::data::task::PromptedRow]| rows.iter().filter(|r| r.label == 1).count();
    assert_eq!(positive(&found.train) + positive(&found.dev), 200);
    assert_eq!(positive(&found.eval), 100);
    let mut prompts: Vec<_> = found.train.iter().chain(&found.dev).chain(&found.eval).map(|r| &r.prompt).collect();
    prompts.sort();
    prompts.dedup();
    assert_eq!(prompts.len(), 600);
    Ok(())
}

#[test]
fn a_task_file_of_ones_own_works_like_a_built_in_one() -> Result<()> {
    let dir = folder(&[
        ("train.csv", "text,stars\n\"good, really\",5\nbad,1\n"),
        ("test.csv", "text,stars\nfine,5\n"),
        (
            "mine.toml",
            "description = \"mine\"\nloss = \"classification\"\nmetric = \"accuracy\"\n\
             [data]\nformat = \"csv\"\ntrain = \"train.csv\"\neval = \"test.csv\"\n\
             [prompt]\ntemplate = \"  Review: {{ text }}\\nStars: \"\ncandidates = [\"one\", \"five\"]\n\
             [label]\ncolumn = \"stars\"\nvalues = [\"1\", \"5\"]\n",
        ),
    ])?;
    let path = dir.path().join("mine.toml");
    let found = splits(&Task::open(&path.to_string_lossy())?, dir.path(), 1, 1)?;
    // Spaces around a prompt are nobody's; one that ends it is the answer's.
    assert_eq!(found.eval[0].prompt, "Review: fine\nStars:");
    assert_eq!(found.eval[0].answered[1], "Review: fine\nStars: five");
    for (change, expected) in [
        (("loss =", "lost ="), "unknown field `lost`"),
        (("[\"1\", \"5\"]", "[\"1\"]"), "[label] values: 1 for 2 candidates"),
        (("[\"1\", \"5\"]", "[\"1\", \"1\"]"), "[label] values: \"1\" occurs twice"),
        (("{{ text }}", "{{ text"), "[prompt] prompt"),
        (("\"accuracy\"", "\"f1\""), "unknown variant `f1`"),
    ] {
        let text = std::fs::read_to_string(&path)?.replace(change.0, change.1);
        let broken = dir.path().join("broken.toml");
        std::fs::write(&broken, text)?;
        let error = Task::open(&broken.to_string_lossy()).err().map(|e| format!("{e:#}")).unwrap();
        assert!(error.contains("broken.toml") && error.contains(expected), "{error}");
    }
    Ok(())
}

/// Nothing in a list or an object is no word: `datasets` leaves such a value out (its issue 7059), and templates would write "None".
#[test]
fn a_null_that_a_template_writes_is_refused() -> Result<()> {
    let text = "description = \"mine\"\nloss = \"teacher-forcing\"\nmetric = \"loss\"\n\
         [data]\nformat = \"jsonl\"\ntrain = \"a.jsonl\"\neval = \"a.jsonl\"\n\
         [prompt]\ntemplate = \"{{ q | length }}, {{ q[0] }}:\"\ncandidates = [\"{{ a }}\"]\n";
    let dir = folder(&[("a.jsonl", "{\"q\": [null, \"b\"], \"a\": \"x\"}\n"), ("mine.toml", text)])?;
    let path = dir.path().join("mine.toml");
    let row = || -> Result<_> {
        let task = Task::open(&path.to_string_lossy())?;
        Ok(task.eval_split(&task.data(Some(dir.path()))?, Sizes::default(), 0)?.remove(0))
    };
    let error = row().err().map(|e| format!("{e:#}")).unwrap();
    assert!(error.contains("a.jsonl, line 1") && error.contains("a value in the template is null"), "{error}");
    std::fs::write(&path, text.replace("q[0]", "q[0] or '-'"))?;
    assert_eq!(row()?.prompt, "2, -:");
    std::fs::write(&path, text.replace("q[0]", "q[1]"))?;
    assert_eq!(row()?.prompt, "2, b:");
    Ok(())
}

/// One candidate is a completion: there is no label, and nothing is trimmed but what the tokenizer has in the answer.
#[test]
fn a_task_file_with_one_candidate_is_a_completion() -> Result<()> {
    let text = "description = \"mine\"\nloss = \"teacher-forcing\"\nmetric = \"loss\"\n\
         [data]\nformat = \"jsonl\"\ntrain = \"a.jsonl\"\neval = \"a.jsonl\"\n\
         [prompt]\ntemplate = \"  Q: {{ q }} \"\ncandidates = [\"{{ a }} \"]\n";
    let dir = folder(&[("a.jsonl", "{\"q\": \"1+1\", \"a\": 2}\n"), ("mine.toml", text)])?;
    let path = dir.path().join("mine.toml");
    let task = Task::open(&path.to_string_lossy())?;
    let row = task.eval_split(&task.data(Some(dir.path()))?, Sizes::default(), 0)?.remove(0);
    assert_eq!((row.prompt.as_str(), &row.answered[..], row.label), ("  Q: 1+1", &["  Q: 1+1 2 ".to_string()][..], 0));
    for (change, expected) in [
        (
            ("teacher-forcing", "classification"),
            "a single candidate is a completion, which needs loss = \"teacher-forcing\" and metric = \"loss\"",
        ),
        (("\"loss\"", "\"accuracy\""), "a single candidate is a completion"),
        (("[\"{{ a }} \"]", "[\"a\", \"b\"]"), "[label] is missing: it says which of the 2 candidates is right"),
        (("[prompt]", "[label]\ncolumn = \"a\"\nvalues = [\"2\"]\n[prompt]"), "a choice needs at least two"),
    ] {
        std::fs::write(&path, text.replace(change.0, change.1))?;
        let error = Task::open(&path.to_string_lossy()).err().map(|e| format!("{e:#}")).unwrap();
        assert!(error.contains(expected), "{error}");
    }
    Ok(())
}

/// tokenizer.json: its own post-processor adds the begin token unless --bos-id does, and what somebody's training left in
/// it of truncation and padding is not used.
#[test]
fn a_tokenizer_json_is_read_without_its_truncation_and_padding() -> Result<()> {
    use tokenizers::{PaddingParams, PaddingStrategy, TruncationParams, models::wordlevel::WordLevel};
    let words = ["<unk>", "<s>", "the", "film", "was", "great"];
    let vocab = words.iter().enumerate().map(|(i, w)| (w.to_string(), i as u32)).collect();
    let model = WordLevel::builder().vocab(vocab).unk_token("<unk>".into()).build().unwrap();
    let mut made = tokenizers::Tokenizer::new(model);
    made.with_pre_tokenizer(Some(tokenizers::pre_tokenizers::whitespace::Whitespace));
    let template = tokenizers::processors::template::TemplateProcessing::builder()
        .try_single("<s> $A")
        .unwrap()
        .special_tokens(vec![("<s>", 1)])
        .build()
        .unwrap();
    made.with_post_processor(Some(template));
    made.with_truncation(Some(TruncationParams { max_length: 3, ..Default::default() })).unwrap();
    made.with_padding(Some(PaddingParams { strategy: PaddingStrategy::Fixed(8), ..Default::default() }));
    let dir = folder(&[("tokenizer.json", &made.to_string(false).unwrap())])?;
    let source = Source::Folder(dir.path().into());
    assert_eq!(Tokenizer::open(&source, None)?.encode("the film was great")?, [1, 2, 3, 4, 5]);
    assert_eq!(Tokenizer::open(&source, Some(0))?.encode("the film was odd")?, [0, 2, 3, 4, 0]);
    std::fs::write(dir.path().join("tokenizer.json"), "{}")?;
    assert!(Tokenizer::open(&source, None).err().unwrap().to_string().contains("tokenizer.json"));
    std::fs::remove_file(dir.path().join("tokenizer.json"))?;
    assert!(
        Tokenizer::open(&source, None).err().unwrap().to_string().contains("and vocab.json or merges.txt is missing too")
    );
    Ok(())
}

#[test]
fn opt_puts_its_begin_token_in_front_and_long_prompts_are_cut_on_the_left() -> Result<()> {
    let files: Source = zotune::model::builtin::OPT_MINI;
    let tokenizer = Tokenizer::open(&files, None)?;
    assert_eq!(tokenizer.encode("the movie was great")?[..2], [2, 569]);
    assert_eq!(Tokenizer::open(&files, Some(0))?.encode("the")?, [0, 569]);
    let task = Task::open("reviews")?;
    let row = task.eval_split(&task.data(None)?, Sizes { num_eval: Some(1), ..Sizes::default() }, 0)?.remove(0);
    let whole = Example::encode(&row, &tokenizer, 512)?;
    let cut = Example::encode(&row, &tokenizer, 6)?;
    for (whole, cut) in whole.candidates.iter().zip(&cut.candidates) {
        assert_eq!((cut.tokens.len(), cut.tokens[0], cut.option_len), (6, 2, 1));
        assert_eq!(cut.tokens[1..], whole.tokens[whole.tokens.len() - 5..]);
    }
    assert!(Example::encode(&row, &tokenizer, 1).unwrap_err().to_string().contains("leaves no room"));
    Ok(())
}
