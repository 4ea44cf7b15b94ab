//! How each field of the tokenizer files is used, following transformers 5.

use crate::base::Use::{NoEffect, Only, Read, Refused};
use crate::base::{Field, Table};

const DECODING: &str = "how tokens become text again";

const LENGTH: &str = "`max_length` says how long a text may be";

const OTHERS: &str = "other models' tokenizers have it";

const BATCHES: &str = "how batches are padded; zotune does not pad";

const HOW_OPENED: &str = "how some program opened or wrote it";

/// tokenizer_config.json.
pub const TOKENIZER_CONFIG: Table = Table {
    file: "tokenizer_config.json",
    of: "",
    fields: &[
        ("tokenizer_class", Read, "with config.json's model_type, how text is cut; an unknown one is refused"),
        (
            "add_bos_token",
            Read,
            "with vocab.json alone: beside tokenizer.json its post-processor counts, and a warning says so",
        ),
        ("add_eos_token", NoEffect, "a template's end token is left out, because the answer is what is scored"),
        ("add_prefix_space", Read, "if the class rebuilds the tokenizer; otherwise tokenizer.json counts"),
        ("legacy", Read, "LLaMA's class: a space before what follows a special token"),
        ("split_special_tokens", Read, "special tokens in a text are text"),
        ("added_tokens_decoder", Read, "tokens, their flags, and the ids that they must get"),
        ("additional_special_tokens", Read, "tokens"),
        ("extra_special_tokens", Read, "tokens"),
        ("model_specific_special_tokens", Read, "tokens"),
        ("bos_token", Read, "the begin token, if the template is rebuilt"),
        ("eos_token", Read, "what completions end with, if generation stops at it"),
        ("unk_token", Read, "a token"),
        ("sep_token", Read, "a token"),
        ("pad_token", Read, "a token"),
        ("cls_token", Read, "a token"),
        ("mask_token", Read, "a token"),
        ("*_token", Read, "any other field that ends so and has a text: a token"),
        ("init_inputs", Only(&["[]"]), "what a class is given without a name is not known"),
        (
            "fix_mistral_regex",
            Only(&["false"]),
            "another pattern than tokenizer.json's; write it into tokenizer.json instead",
        ),
        ("auto_map", Refused, "its own program makes the tokens; with a tokenizer.json that needs none, remove the field"),
        (
            "fast_tokenizer_files",
            Refused,
            "it names other files than tokenizer.json; replace tokenizer.json with the file that counts",
        ),
        ("use_auth_token", NoEffect, HOW_OPENED),
        ("backend", NoEffect, HOW_OPENED),
        ("is_local", NoEffect, HOW_OPENED),
        ("local_files_only", NoEffect, HOW_OPENED),
        ("name_or_path", NoEffect, HOW_OPENED),
        ("special_tokens_map_file", NoEffect, HOW_OPENED),
        ("tokenizer_file", NoEffect, HOW_OPENED),
        ("vocab_file", NoEffect, HOW_OPENED),
        ("merges_file", NoEffect, HOW_OPENED),
        ("files_loaded", NoEffect, HOW_OPENED),
        ("trust_remote_code", NoEffect, HOW_OPENED),
        ("use_fast", NoEffect, HOW_OPENED),
        ("from_slow", NoEffect, HOW_OPENED),
        ("revision", NoEffect, HOW_OPENED),
        ("device_map", NoEffect, HOW_OPENED),
        ("_commit_hash", NoEffect, HOW_OPENED),
        ("transformers_version", NoEffect, HOW_OPENED),
        ("verbose", NoEffect, HOW_OPENED),
        ("processor_class", NoEffect, "what reads images or sound"),
        ("model_type", NoEffect, "config.json's counts"),
        ("tokenizer_type", NoEffect, "tokenizer_class counts"),
        ("vocab_size", NoEffect, "the vocabulary counts"),
        ("chat_template", NoEffect, "a text is what the task or the data say, as it is"),
        ("response_schema", NoEffect, "chat"),
        ("response_template", NoEffect, "chat"),
        ("chat_control_tokens", NoEffect, "chat"),
        ("use_default_system_prompt", NoEffect, "chat"),
        ("errors", NoEffect, DECODING),
        ("clean_up_tokenization_spaces", NoEffect, DECODING),
        ("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", NoEffect, DECODING),
        ("spaces_between_special_tokens", NoEffect, DECODING),
        ("model_max_length", NoEffect, LENGTH),
        ("max_len", NoEffect, LENGTH),
        ("max_length", NoEffect, LENGTH),
        ("stride", NoEffect, LENGTH),
        ("truncation", NoEffect, LENGTH),
        ("truncation_side", NoEffect, LENGTH),
        ("truncation_strategy", NoEffect, LENGTH),
        ("padding", NoEffect, BATCHES),
        ("padding_side", NoEffect, BATCHES),
        ("pad_to_multiple_of", NoEffect, BATCHES),
        ("pad_token_type_id", NoEffect, BATCHES),
        ("pad_token_id", NoEffect, BATCHES),
        ("bos_token_id", NoEffect, "bos_token counts"),
        ("eos_token_id", NoEffect, "eos_token counts"),
        ("unk_token_id", NoEffect, "unk_token counts"),
        ("model_input_names", NoEffect, BATCHES),
        ("return_token_type_ids", NoEffect, BATCHES),
        ("sp_model_kwargs", NoEffect, "SentencePiece's own reader, which is not used"),
        ("suffix_first", NoEffect, "infilling"),
        ("do_lower_case", NoEffect, OTHERS),
        ("do_basic_tokenize", NoEffect, OTHERS),
        ("never_split", NoEffect, OTHERS),
        ("strip_accents", NoEffect, OTHERS),
        ("tokenize_chinese_chars", NoEffect, OTHERS),
        ("handle_chinese_chars", NoEffect, OTHERS),
        ("wordpieces_prefix", NoEffect, OTHERS),
        ("start_n_top", NoEffect, OTHERS),
        ("end_n_top", NoEffect, OTHERS),
        ("remove_space", NoEffect, OTHERS),
        ("keep_accents", NoEffect, OTHERS),
        ("cls_token_box", NoEffect, OTHERS),
    ],
};

/// special_tokens_map.json.
pub const SPECIAL_TOKENS_MAP: Table = Table {
    file: "special_tokens_map.json",
    of: "without added_tokens_decoder",
    fields: &[
        ("bos_token", Read, "goes before tokenizer_config.json's"),
        ("eos_token", Read, "goes before tokenizer_config.json's"),
        ("unk_token", Read, "goes before tokenizer_config.json's"),
        ("sep_token", Read, "goes before tokenizer_config.json's"),
        ("pad_token", Read, "goes before tokenizer_config.json's"),
        ("cls_token", Read, "goes before tokenizer_config.json's"),
        ("mask_token", Read, "goes before tokenizer_config.json's"),
        ("additional_special_tokens", Read, "tokens, if tokenizer_config.json lists none"),
        ("extra_special_tokens", Read, "tokens"),
        ("*_token", Read, "any other field that ends so and has a text: a token"),
    ],
};

/// A token with flags: in tokenizer.json, added_tokens_decoder, or as a named token.
pub const ADDED_TOKEN: Table = Table {
    file: "tokenizer.json, tokenizer_config.json, special_tokens_map.json",
    of: "a token",
    fields: &[
        ("content", Read, "its text"),
        ("id", Read, "the id that it must get"),
        ("single_word", Read, ""),
        ("lstrip", Read, ""),
        ("rstrip", Read, ""),
        ("normalized", Read, ""),
        ("special", Read, ""),
        ("__type", Only(&["\"AddedToken\""]), "transformers' own mark"),
    ],
};

/// generation_config.json; it controls generation, which zotune does not do, so one field is read.
pub const GENERATION_CONFIG: Table = Table {
    file: "generation_config.json",
    of: "",
    fields: &[
        ("eos_token_id", Read, "where generation stops: what completions end with; config.json's if it names none"),
        ("{any other}", NoEffect, "nothing is generated; the file is copied beside a model that is written"),
    ],
};

/// tokenizer.json.
pub const TOKENIZER_JSON: Table = Table {
    file: "tokenizer.json",
    of: "",
    fields: &[
        ("version", Only(&["\"1.0\""]), "another version may give the same words another meaning"),
        ("added_tokens", Read, "if the class uses the file as it is, or no other file says otherwise"),
        ("normalizer", Read, "if the class uses the file as it is"),
        ("pre_tokenizer", Read, "if the class uses the file as it is"),
        ("post_processor", Read, "what it adds before a text; what it adds after a text is left out"),
        ("model", Read, "vocabulary and merges; the rest if the class uses the file as it is"),
        ("truncation", NoEffect, LENGTH),
        ("padding", Read, "its pad_token is a token; zotune does not pad"),
        ("decoder", NoEffect, DECODING),
    ],
};

/// The steps and models of tokenizer.json by type, `of`.
pub const COMPONENTS: &[Table] = &[
    part(
        "BPE",
        &[
            TYPE,
            ("dropout", Only(&["0"]), "it cuts the same text differently each time; only null can be scored"),
            ("unk_token", Read, ""),
            ("continuing_subword_prefix", Read, ""),
            ("end_of_word_suffix", Read, ""),
            ("fuse_unk", Read, ""),
            ("byte_fallback", Read, ""),
            ("ignore_merges", Read, ""),
            ("vocab", Read, ""),
            ("merges", Read, ""),
        ],
    ),
    part("WordLevel", &[TYPE, ("vocab", Read, ""), ("unk_token", Read, "")]),
    part(
        "WordPiece",
        &[
            TYPE,
            ("vocab", Read, ""),
            ("unk_token", Read, ""),
            ("continuing_subword_prefix", Read, ""),
            ("max_input_chars_per_word", Read, ""),
        ],
    ),
    part("Unigram", &[TYPE, ("vocab", Read, ""), ("unk_id", Read, ""), ("byte_fallback", Read, "")]),
    // Normalizers, pre-tokenizers and post-processors; some share a name.
    part("Sequence", &[TYPE, ("normalizers", Read, ""), ("pretokenizers", Read, ""), ("processors", Read, "")]),
    part(
        "ByteLevel",
        &[
            TYPE,
            ("add_prefix_space", Read, ""),
            ("use_regex", Read, ""),
            ("trim_offsets", NoEffect, "where tokens lie in a text"),
        ],
    ),
    part("NFC", &[TYPE]),
    part("NFD", &[TYPE]),
    part("NFKC", &[TYPE]),
    part("NFKD", &[TYPE]),
    part("Nmt", &[TYPE]),
    part("Lowercase", &[TYPE]),
    part("StripAccents", &[TYPE]),
    part("Strip", &[TYPE, ("strip_left", Read, ""), ("strip_right", Read, "")]),
    part("Precompiled", &[TYPE, ("precompiled_charsmap", Read, "")]),
    part("Replace", &[TYPE, ("pattern", Read, ""), ("content", Read, "")]),
    part("Prepend", &[TYPE, ("prepend", Read, "")]),
    part(
        "BertNormalizer",
        &[
            TYPE,
            ("clean_text", Read, ""),
            ("handle_chinese_chars", Read, ""),
            ("strip_accents", Read, ""),
            ("lowercase", Read, ""),
        ],
    ),
    part("BertPreTokenizer", &[TYPE]),
    part("Whitespace", &[TYPE]),
    part("WhitespaceSplit", &[TYPE]),
    part("UnicodeScripts", &[TYPE]),
    part("CharDelimiterSplit", &[TYPE, ("delimiter", Read, "")]),
    part("Delimiter", &[TYPE, ("delimiter", Read, "")]),
    part("FixedLength", &[TYPE, ("length", Read, "")]),
    part("Punctuation", &[TYPE, ("behavior", Read, "")]),
    part("Digits", &[TYPE, ("individual_digits", Read, "")]),
    part("Split", &[TYPE, ("pattern", Read, ""), ("behavior", Read, ""), ("invert", Read, "")]),
    part(
        "Metaspace",
        &[
            TYPE,
            ("replacement", Read, ""),
            ("prepend_scheme", Read, ""),
            ("split", Read, ""),
            ("add_prefix_space", Read, ""),
            ("str_rep", NoEffect, "replacement counts"),
        ],
    ),
    part("TemplateProcessing", &[TYPE, ("single", Read, ""), PAIR, ("special_tokens", Read, "")]),
    part("BertProcessing", &[TYPE, ("cls", Read, ""), ("sep", Read, "")]),
    part(
        "RobertaProcessing",
        &[
            TYPE,
            ("cls", Read, ""),
            ("sep", Read, ""),
            ("trim_offsets", NoEffect, "where tokens lie in a text"),
            ("add_prefix_space", NoEffect, "where tokens lie in a text"),
        ],
    ),
];

const TYPE: Field = ("type", Read, "");

const PAIR: Field = ("pair", NoEffect, "two texts");

const fn part(of: &'static str, fields: &'static [Field]) -> Table {
    Table { file: "tokenizer.json", of, fields }
}
