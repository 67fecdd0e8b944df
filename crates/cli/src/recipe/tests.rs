//! Every mistake a person is likely to make, and what they are told.

use super::*;

/// Loads `text` from a file `my.toml` beside a folder `pages`.
fn load(text: &str, quick: bool, sets: &[&str]) -> Result<Recipe, Error> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("pages")).unwrap();
    std::fs::write(folder.path().join("my.toml"), text).unwrap();
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    Recipe::load(&folder.path().join("my.toml"), quick, &sets)
}

/// What is said about `text`, with the position, on one line: `what @line:column ~marked~ help`.
fn complaint(text: &str, sets: &[&str]) -> String {
    let error = load(text, false, sets).expect_err(text);
    let position = |n: Option<u32>| n.map_or("-".into(), |n| n.to_string());
    let marked = error.snippet.as_deref().map_or(String::new(), |snippet| {
        let lines: Vec<&str> = snippet.lines().collect();
        let (from, to) = (lines[2].find('^').unwrap(), lines[2].len());
        lines[1].get(from..to).unwrap_or_default().to_owned()
    });
    format!(
        "{} @{}:{} ~{marked}~ {}",
        error.what,
        position(error.line),
        position(error.column),
        error.help.unwrap_or_default()
    )
}

const SOURCE: &str = "[source]\nkind = \"html\"\npath = \"pages\"\n";

fn check(body: &str, expected: &str) {
    let said = complaint(&format!("{SOURCE}{body}"), &[]);
    assert!(said.starts_with(expected), "for {body:?}\n expected {expected}\n     said {said}");
}

#[test]
fn a_name_and_a_source_are_enough() {
    let recipe = load(&format!("name = \"mine\"\n{SOURCE}"), false, &[]).unwrap();
    assert_eq!(recipe.name, "mine");
    assert_eq!(recipe.train.length(), Length::Tokens(Train::DEFAULT_TOKENS));
    assert!(recipe.source.path.unwrap().is_absolute());
    assert_eq!(load(SOURCE, false, &[]).unwrap().name, "my", "the file's name stands in");
}

#[test]
fn wrong_keys_are_named_with_the_right_one() {
    check(
        "[tokenizer]\nvocab_sise = 1",
        "unknown key `vocab_sise` @5:1 ~vocab_sise~ did you mean `vocab_size`?",
    );
    check(
        "[tokeniser]\nvocab_size = 1",
        "unknown key `tokeniser` @4:2 ~tokeniser~ did you mean `tokenizer`?",
    );
    check(
        "[train]\nlearning_rate = 1",
        "unknown key `learning_rate` @5:1 ~learning_rate~ did you mean `lr`?",
    );
    check(
        "[model]\nvocab_size = 1",
        "unknown key `vocab_size` @5:1 ~vocab_size~ `vocab_size` belongs in [tokenizer]",
    );
    check("[tokenizer]\nbanana = 1", "unknown key `banana` @5:1 ~banana~ [tokenizer] knows `vocab_size`");
}

#[test]
fn wrong_types_say_what_was_expected() {
    check("[train]\nlr = \"a\"", "`train.lr` must be a number, not the text \"a\" @5:6 ~\"a\"~");
    check("[train]\nsteps = 1.5", "`train.steps` must be a whole number of 0 or more, not `1.5` @5:9 ~1.5~");
    check("[train]\nsteps = -1", "`train.steps` must be a whole number of 0 or more, not `-1` @5:9 ~-1~");
    check(
        "[train]\ndtype = \"bf15\"",
        "`train.dtype` cannot be \"bf15\" @5:9 ~\"bf15\"~ did you mean \"bf16\"?",
    );
    check(
        "[train]\ndtype = \"int\"",
        "`train.dtype` cannot be \"int\" @5:9 ~\"int\"~ one of \"bf16\", \"f32\"",
    );
    check("[model]\npreset = \"openelm-270\"", "`model.preset` cannot be \"openelm-270\" @5:10");
    check("[model]\nqkv_multipliers = 1", "`model.qkv_multipliers` must be a list of two numbers");
    check("[judge]\ntemperatures = 1", "`judge.temperatures` must be a list");
    check("train = 3", "unknown key `train`");
    assert!(complaint("train = 3", &[]).starts_with("`train` must be a section, [train], not `3` @1:9 ~3~"));
    assert!(complaint("name = 3", &[]).starts_with("`name` must be text in quotes, not `3` @1:8"));
}

#[test]
fn broken_syntax_is_pointed_at() {
    for (text, line) in
        [("name = ", 1), ("[source]\nkind = \"html", 2), ("a\n", 1), ("x = 1\nx = 2", 2), ("[", 1)]
    {
        let error = load(text, false, &[]).expect_err(text);
        assert_eq!((error.line, error.exit), (Some(line), Exit::BadInput), "{text:?}: {error}");
        assert!(error.snippet.is_some() && error.help.is_some());
    }
}

#[test]
fn values_that_cannot_be_meant_are_pointed_at() {
    check("[train]\nlr = 0", "`train.lr` must be above 0, at most 10 @5:6 ~0~");
    check("[train]\nlr = nan", "`train.lr` must be above 0");
    check("[train]\nlr = inf", "`train.lr` must be above 0");
    check("[train]\nseq_len = 0", "`train.seq_len` must be at least 2");
    check(
        "[train]\nseq_len = 4096",
        "`train.seq_len` must be at most `model.max_context_length`, which is 2048",
    );
    check(
        "[train]\ntokens = 5\nsteps = 6",
        "`train.steps` contradicts `train.tokens`: each says how long to train @6:9 ~6~ keep one",
    );
    check(
        "[train]\nsteps = 6",
        "`train.warmup_steps` must be at most `train.steps`, which is 6 @4:2 ~train~",
    );
    check(
        "[model]\npreset = \"openelm-270m\"\nhead_dim = 64",
        "`model.head_dim` contradicts `model.preset`, which fixes it @6:12 ~64~",
    );
    check("[model]\nhead_dim = 33", "`model.head_dim` must be an even number");
    check("[tokenizer]\nvocab_size = 100", "`tokenizer.vocab_size` must be from 260");
    check("[curate]\nheld_out_share = 1.5", "`curate.held_out_share` must be above 0, at most 0.5");
    check("[judge]\ntemperatures = [0.5, -1.0]", "`judge.temperatures` must be numbers from 0 to 100");
    for name in ["", "a/b", "..", ".x", "a b", "-x"] {
        let said = complaint(&format!("name = \"{name}\"\n{SOURCE}"), &[]);
        assert!(said.starts_with("`name` must be the name of a folder"), "{said}");
    }
}

#[test]
fn an_optimiser_is_named_and_its_settings_go_with_it() {
    check(
        "[train]\noptimizer = \"moun\"",
        "`train.optimizer` cannot be \"moun\" @5:13 ~\"moun\"~ did you mean \"muon\"?",
    );
    check(
        "[train]\noptimizer = \"sgd\"",
        "`train.optimizer` cannot be \"sgd\" @5:13 ~\"sgd\"~ one of \"adamw\", \"muon\"",
    );
    check(
        "[train]\nmuon_lr = 0.01",
        "`train.muon_lr` has no meaning for AdamW, the default optimiser @5:11 ~0.01~ add optimizer = \"muon\"",
    );
    check(
        "[train]\noptimizer = \"muon\"\nmuon_lr = 0",
        "`train.muon_lr` must be above 0, at most 10 @6:11 ~0~",
    );
    check(
        "[train]\noptimizer = \"muon\"\nmuon_momentum = 1.0",
        "`train.muon_momentum` must be at least 0, below 1 @6:17 ~1.0~",
    );
    // One setting compares the two, whatever the file says of Muon; and what was run can be run again.
    let text = "[source]\nkind = \"site\"\n[train]\noptimizer = \"muon\"\nmuon_lr = 0.01\n";
    for (set, optimizer) in [("train.lr=1e-3", Optimizer::Muon), ("train.optimizer=adamw", Optimizer::AdamW)]
    {
        let recipe = load(text, false, &[set]).unwrap();
        assert_eq!((recipe.train.optimizer, recipe.train.muon_lr), (optimizer, Some(0.01)));
        assert_eq!(load(&recipe.to_toml(), false, &[]).unwrap().to_toml(), recipe.to_toml());
    }
}

#[test]
fn a_source_that_is_not_there_is_named_with_the_working_directory() {
    let here = std::env::current_dir().unwrap().display().to_string();
    let said = complaint("[source]\nkind = \"html\"\npath = \"nowhere\"", &[]);
    assert!(said.contains("nowhere` does not exist @3:8 ~\"nowhere\"~") && said.contains(&here), "{said}");
    let said = complaint("[source]\nkind = \"html\"", &[]);
    assert!(said.starts_with("`source.path` is missing: where are the html files? @1:2 ~source~"), "{said}");
    assert!(complaint("", &[]).starts_with("`source.kind` is missing: what is to be read? @1:1"));
    let error = Recipe::load(Path::new("no/such.toml"), false, &[]).unwrap_err();
    assert_eq!(
        (error.exit, error.to_string().as_str()),
        (Exit::Io, "there is no such recipe (no/such.toml)")
    );
    assert!(error.help.unwrap().contains(&here));
}

#[test]
fn settings_override_and_are_judged_alike() {
    let text = format!("{SOURCE}[train]\ntokens = 5000\nlr = 0.5\n");
    let recipe =
        load(&text, false, &["train.lr=1e-3", "name=other", "train.steps = 70", "name=123"]).unwrap();
    assert_eq!((recipe.train.lr, recipe.name.as_str()), (1e-3, "123"));
    assert_eq!(recipe.train.length(), Length::Steps(70), "the file's `tokens` gives way");

    let said = |set: &str| complaint(&text, &[set]);
    assert!(said("train.lr=fast").starts_with("`train.lr` must be a number, not the text \"fast\" @1:10"));
    assert!(said("train.lrr=1").starts_with("unknown key `lrr` @1:7 ~lrr~ did you mean `lr`?"));
    assert!(said("train.lr=0").starts_with("`train.lr` must be above 0, at most 10 @1:10 ~0~"));
    assert!(said("train.lr").starts_with("no `=` in a setting"));
    assert!(said("=1").starts_with("a setting is one `key=value`"));
    assert!(said("[a]\nb=1").starts_with("a setting is one"));
    assert_eq!(load(&text, false, &["train.lr=0"]).unwrap_err().exit, Exit::Usage);
    let both = complaint(&text, &["train.steps=50", "train.tokens=60"]);
    assert!(both.starts_with("`train.steps` contradicts `train.tokens`"), "{both}");

    // A path in a setting is relative to the working directory, here the crate's folder.
    let recipe = load(&text, false, &["source.path=src"]).unwrap();
    assert_eq!(recipe.source.path.unwrap(), std::env::current_dir().unwrap().join("src"));
    // A preset by `--set` replaces the file's dimensions, and the other way round.
    let recipe = Recipe::quickstart(false, &["model.preset=openelm-270m".into()]).unwrap();
    assert_eq!(recipe.model.preset, Some(Preset::OpenElm270M));
}

#[test]
fn quick_shrinks_what_takes_time() {
    let text = format!("{SOURCE}pages = 90\n[train]\nepochs = 3.0\nsave_every = 7");
    let recipe = load(&text, true, &[]).unwrap();
    assert_eq!((recipe.source.pages, recipe.train.save_every), (Some(90), 7), "what is small stays");
    assert_eq!(recipe.train.length(), Length::Tokens(100_000));
    let recipe = load(&text, true, &["train.tokens=500000", "source.pages=1000"]).unwrap();
    assert_eq!(recipe.train.length(), Length::Tokens(500_000), "what is set by hand stands");
    assert_eq!(recipe.source.pages, Some(1000));
}

#[test]
fn what_was_run_can_be_run_again() {
    let folder = tempfile::tempdir().unwrap();
    for set in ["train.lr=1e-3", "model.preset=openelm-1.1b"] {
        let recipe = Recipe::quickstart(false, &[set.into()]).unwrap();
        let copy = folder.path().join("recipe.toml");
        std::fs::write(&copy, recipe.to_toml()).unwrap();
        let again =
            Recipe::load(&copy, false, &[]).unwrap_or_else(|error| panic!("{error}\n{}", recipe.to_toml()));
        assert_eq!(again.to_toml(), recipe.to_toml());
    }
}

#[test]
fn the_shipped_recipes_are_right() {
    let quickstart = Recipe::quickstart(false, &[]).unwrap();
    assert!(quickstart.source.pages.unwrap() >= 4000);
    let parameters = parameters(&quickstart.model, quickstart.tokenizer.vocab_size);
    assert_eq!(parameters, 2_890_560, "the comment in the recipe says 2.9 million");
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let books = recipes.display().to_string();
    Recipe::load(&recipes.join("novels.toml"), false, &[format!("source.path={books}")]).unwrap();
}

/// OpenELM's layer-wise scaling, as in the paper's code; the model crate has the real one.
fn parameters(model: &Model, vocab_size: usize) -> usize {
    let round = |value: f64, divisor: usize| {
        let rounded = divisor.max((value + divisor as f64 / 2.0) as usize / divisor * divisor);
        if (rounded as f64) < 0.9 * value { rounded + divisor } else { rounded }
    };
    let (dim, layers) = (model.model_dim, model.num_transformer_layers);
    let scale = |[first, last]: [f64; 2], i: usize| {
        ((first + i as f64 * (last - first) / (layers - 1) as f64) * 100.0).round_ties_even() / 100.0
    };
    let layer = |i: usize| {
        let divisor = model.head_dim * model.num_gqa_groups;
        let query = round(dim as f64 * scale(model.qkv_multipliers, i), divisor);
        let ffn = round(dim as f64 * scale(model.ffn_multipliers, i), model.ffn_dim_divisor);
        let attention = (2 * query + 2 * query / model.num_gqa_groups) * dim;
        attention + 3 * ffn * dim + 2 * dim + 2 * model.head_dim
    };
    vocab_size * dim + dim + (0..layers).map(layer).sum::<usize>()
}
