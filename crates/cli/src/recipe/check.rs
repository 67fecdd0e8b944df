//! Values that have the right type and still cannot be meant: ranges and contradictions.

use std::path::Path;

use super::error::Error;
use super::layer::Layer;
use super::sections::{DIMENSIONS, SourceKind};
use super::{Recipe, writer_of};

/// Finds the first value of `recipe` that cannot be meant, and the layer that wrote it.
pub(crate) fn check(recipe: &Recipe, layers: &[Layer]) -> Result<(), Error> {
    let Recipe { source, curate, tokenizer, model, train, judge, .. } = recipe;
    let mistake = |path: &str, what: String| writer_of(layers, path).mistake(path, what);
    let must = |good: bool, path: &str, what: &str| {
        if good { Ok(()) } else { Err(mistake(path, format!("`{path}` must be {what}"))) }
    };
    let share = |x: f64| (0.0..=1.0).contains(&x);
    let positive = |x: f64| x > 0.0 && x.is_finite();
    let natural = |x: f64| x >= 0.0 && x.is_finite();

    must(
        is_folder_name(&recipe.name),
        "name",
        "the name of a folder: letters, digits, `-`, `_` and `.`, at most 64",
    )?;

    if !layers.iter().any(|layer| layer.has("source.kind")) {
        return Err(mistake("source.kind", "`source.kind` is missing: what is to be read?".into()).help(
            "add kind = \"rust-docs\", \"html\", \"text\", \"jsonl\", \"warc\" or \"site\" to [source]",
        ));
    }
    must(source.pages != Some(0), "source.pages", "at least 1")?;
    must(!source.text_field.0.is_empty(), "source.text_field", "the name of a field")?;
    check_path(recipe, layers)?;

    must(curate.min_words <= curate.max_words, "curate.min_words", "at most `curate.max_words`")?;
    must(natural(curate.min_mean_word_length), "curate.min_mean_word_length", "0 or more")?;
    must(
        curate.max_mean_word_length >= curate.min_mean_word_length,
        "curate.max_mean_word_length",
        "at least `curate.min_mean_word_length`",
    )?;
    for (key, value) in [
        ("min_alphabetic_words", curate.min_alphabetic_words),
        ("max_bullet_lines", curate.max_bullet_lines),
        ("max_ellipsis_lines", curate.max_ellipsis_lines),
        ("max_duplicate_lines", curate.max_duplicate_lines),
        ("max_duplicate_line_chars", curate.max_duplicate_line_chars),
        ("max_duplicate_5_gram_chars", curate.max_duplicate_5_gram_chars),
        ("max_contained", curate.max_contained),
        ("max_held_out_overlap", curate.max_held_out_overlap),
    ] {
        must(share(value), &format!("curate.{key}"), "from 0 to 1: a share")?;
    }
    let symbols = curate.max_symbols_per_word;
    must(natural(symbols), "curate.max_symbols_per_word", "0 or more")?;
    let top_ngrams = curate.max_top_ngram_chars;
    must(top_ngrams.into_iter().all(share), "curate.max_top_ngram_chars", "three numbers from 0 to 1")?;
    must(curate.min_stop_words <= 8, "curate.min_stop_words", "from 0 to 8, the number of words looked for")?;
    let threshold = curate.near_duplicate_threshold;
    must(positive(threshold) && threshold <= 1.0, "curate.near_duplicate_threshold", "above 0, at most 1")?;
    must(
        positive(curate.held_out_share) && curate.held_out_share <= 0.5,
        "curate.held_out_share",
        "above 0, at most 0.5: the model is judged by documents it never saw",
    )?;

    must(
        (260..=1_000_000).contains(&tokenizer.vocab_size),
        "tokenizer.vocab_size",
        "from 260 (the 256 bytes and some special tokens) to 1,000,000",
    )?;

    if model.preset.is_some() {
        for key in DIMENSIONS.map(|key| format!("model.{key}")) {
            if layers.iter().any(|layer| layer.has(&key)) {
                return Err(mistake(&key, format!("`{key}` contradicts `model.preset`, which fixes it"))
                    .help("keep one of the two"));
            }
        }
    }
    must((8..=65_536).contains(&model.model_dim), "model.model_dim", "from 8 to 65,536")?;
    let layers_key = "model.num_transformer_layers";
    must((1..=1024).contains(&model.num_transformer_layers), layers_key, "from 1 to 1,024")?;
    let head_dim_fits = model.head_dim >= 2 && model.head_dim.is_multiple_of(2) && model.head_dim <= 1024;
    must(head_dim_fits, "model.head_dim", "an even number from 2 to 1,024: rotary positions turn pairs")?;
    must((1..=64).contains(&model.num_gqa_groups), "model.num_gqa_groups", "from 1 to 64")?;
    must(
        model.qkv_multipliers.iter().all(|&x| positive(x) && x <= 16.0),
        "model.qkv_multipliers",
        "two numbers above 0, at most 16",
    )?;
    must(
        model.ffn_multipliers.iter().all(|&x| positive(x) && x <= 64.0),
        "model.ffn_multipliers",
        "two numbers above 0, at most 64",
    )?;
    must((1..=65_536).contains(&model.ffn_dim_divisor), "model.ffn_dim_divisor", "from 1 to 65,536")?;
    let context_fits = (2..=1 << 24).contains(&model.max_context_length);
    must(context_fits, "model.max_context_length", "from 2 to 16,777,216")?;

    must(train.seq_len >= 2, "train.seq_len", "at least 2: a token and the one to predict from it")?;
    must(
        train.seq_len <= model.max_context_length,
        "train.seq_len",
        &format!("at most `model.max_context_length`, which is {}", model.max_context_length),
    )?;
    must((1..=1 << 20).contains(&train.batch_rows), "train.batch_rows", "from 1 to 1,048,576")?;
    must((1..=1 << 20).contains(&train.grad_accum), "train.grad_accum", "from 1 to 1,048,576")?;
    let lengths = ["train.tokens", "train.steps", "train.epochs"];
    let given = [train.tokens.is_some(), train.steps.is_some(), train.epochs.is_some()];
    let mut given = lengths.iter().zip(given).filter(|(_, given)| *given).map(|(path, _)| *path);
    if let (Some(one), Some(other)) = (given.next(), given.next()) {
        return Err(mistake(other, format!("`{other}` contradicts `{one}`: each says how long to train"))
            .help("keep one of the two"));
    }
    must(train.tokens != Some(0), "train.tokens", "at least 1")?;
    must(train.steps != Some(0), "train.steps", "at least 1")?;
    must(train.epochs.is_none_or(|x| positive(x) && x <= 1e6), "train.epochs", "above 0")?;
    must(positive(train.lr) && train.lr <= 10.0, "train.lr", "above 0, at most 10")?;
    must(share(train.min_lr_ratio), "train.min_lr_ratio", "from 0 to 1: a share of `train.lr`")?;
    if let Some(steps) = train.steps {
        must(
            train.warmup_steps <= steps,
            "train.warmup_steps",
            &format!("at most `train.steps`, which is {steps}"),
        )?;
    }
    must(natural(train.weight_decay), "train.weight_decay", "0 or more")?;
    must(share(train.beta1) && train.beta1 < 1.0, "train.beta1", "at least 0, below 1")?;
    must(share(train.beta2) && train.beta2 < 1.0, "train.beta2", "at least 0, below 1")?;
    must(positive(train.eps), "train.eps", "above 0")?;
    for key in ["train.muon_lr", "train.muon_momentum"] {
        // Where AdamW was asked for by name, they may stay: one `--set` compares the two.
        if layers.iter().any(|layer| layer.has(key))
            && !layers.iter().any(|layer| layer.has("train.optimizer"))
        {
            return Err(mistake(key, format!("`{key}` has no meaning for AdamW, the default optimiser"))
                .help("add optimizer = \"muon\" to [train], or leave the key out"));
        }
    }
    must(train.muon_lr.is_none_or(|x| positive(x) && x <= 10.0), "train.muon_lr", "above 0, at most 10")?;
    must(
        train.muon_momentum.is_none_or(|x| share(x) && x < 1.0),
        "train.muon_momentum",
        "at least 0, below 1",
    )?;
    must(natural(train.grad_clip), "train.grad_clip", "0 (off) or more")?;
    must(natural(train.z_loss), "train.z_loss", "0 (off) or more")?;
    must(train.eval_every > 0, "train.eval_every", "at least 1")?;
    must(train.save_every > 0, "train.save_every", "at least 1")?;
    must(train.keep_last > 0, "train.keep_last", "at least 1")?;
    must((1..=1000).contains(&train.average_last), "train.average_last", "from 1 (no averaging) to 1,000")?;
    must(train.threads.is_none_or(|n| (1..=4096).contains(&n)), "train.threads", "from 1 to 4,096")?;

    must(!judge.temperatures.is_empty(), "judge.temperatures", "a list of at least one number")?;
    must(
        judge.temperatures.iter().all(|&x| natural(x) && x <= 100.0),
        "judge.temperatures",
        "numbers from 0 to 100",
    )?;
    must((1..=100_000).contains(&judge.sample_tokens), "judge.sample_tokens", "from 1 to 100,000")
}

/// The source's path: given where one is needed, and there.
fn check_path(recipe: &Recipe, layers: &[Layer]) -> Result<(), Error> {
    let source = &recipe.source;
    let layer = writer_of(layers, "source.path");
    let Some(path) = &source.path else {
        return if matches!(source.kind, SourceKind::RustDocs | SourceKind::Site) {
            Ok(())
        } else {
            let what = format!("`source.path` is missing: where are the {} files?", source.kind.name());
            Err(writer_of(layers, "source")
                .mistake("source", what)
                .help("add path = \"FOLDER\" to [source], or --set source.path=FOLDER"))
        };
    };
    if source.kind == SourceKind::Site {
        return Err(layer
            .mistake("source.path", "`source.path` has no meaning for kind = \"site\"")
            .help("a generated site is read from nowhere; leave the path out"));
    }
    path.try_exists().and_then(|there| if there { Ok(()) } else { Err(std::io::ErrorKind::NotFound.into()) }).map_err(
        |error: std::io::Error| {
            let reason = match error.kind() {
                std::io::ErrorKind::NotFound => "does not exist".to_owned(),
                _ => format!("cannot be looked at: {error}"),
            };
            let here = std::env::current_dir().unwrap_or_default();
            layer
                .mistake("source.path", format!("`{}` {reason}", path.display()))
                .help(format!(
                    "paths in a recipe are relative to the recipe's folder, those in --set to the working directory, \
                     which is `{}`",
                    here.display()
                ))
        },
    )
}

fn is_folder_name(name: &str) -> bool {
    let fits = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    Path::new(name).file_name().is_some_and(|file| file == name)
        && name.chars().all(fits)
        && !name.starts_with(['.', '-'])
        && name.len() <= 64
}
