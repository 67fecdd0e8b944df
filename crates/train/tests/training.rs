//! The loop learns, refuses what it should, and keeps what it made.

mod common;

use std::cell::Cell;
use std::fs;
use std::path::Path;

use elmwood_data::PackedTokens;
use elmwood_model::{SafetensorsFile, TensorRole, Weights, layout};
use elmwood_train::{Dtype, Error, Event, Machine, Muon, Outcome, Settings, newest_checkpoint, train};

fn data(folder: &Path) -> (PackedTokens, PackedTokens) {
    let corpus = |name, documents| common::corpus(&folder.join(name), documents, 64);
    (corpus("train.safetensors", 40), corpus("held_out.safetensors", 12))
}

fn run(settings: &Settings, folder: &Path, threads: usize) -> Result<(Outcome, Vec<f64>), Error> {
    let (data, held_out) = data(folder);
    let mut losses = Vec::new();
    let mut observe = |event: Event<'_>| {
        if let Event::Step(metrics) = event {
            losses.push(metrics.loss);
        }
    };
    let folder = folder.join("run");
    fs::create_dir_all(&folder).unwrap();
    let outcome = train(
        settings,
        &common::config(64),
        &data,
        &held_out,
        &folder,
        &Machine::new(threads).unwrap(),
        &|| false,
        &mut observe,
    )?;
    Ok((outcome, losses))
}

#[test]
fn the_loss_falls_and_threads_change_nothing() {
    for (dtype, muon) in [
        (Dtype::F32, None),
        (Dtype::Bf16, None),
        (Dtype::F32, Some(common::MUON)),
        (Dtype::Bf16, Some(common::MUON)),
    ] {
        let settings = Settings { dtype, muon, ..common::settings() };
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (one, losses) = run(&settings, folders[0].path(), 1).unwrap();
        // 258 ids to choose from at first; digits and a few words at last.
        assert!((losses[0] - 258.0_f64.ln()).abs() < 1.0, "{}", losses[0]);
        assert!(one.held_out.mean() < 2.0, "{dtype:?}, {muon:?}: {}", one.held_out.mean());
        let (two, _) = run(&settings, folders[1].path(), 2).unwrap();
        assert_eq!((one.held_out, one.averaged), (two.held_out, two.averaged));
        let weights = |outcome: &Outcome| Weights::load(&outcome.model).unwrap().1;
        assert!(weights(&one) == weights(&two), "{dtype:?}, {muon:?}: two threads train another model");
    }
}

#[test]
fn one_batch_is_learned_by_heart() {
    let folder = tempfile::tempdir().unwrap();
    let data = common::corpus(&folder.path().join("one.safetensors"), 3, 64);
    let rows = data.rows();
    let settings =
        Settings { batch_rows: rows, grad_accum: 1, steps: 300, weight_decay: 0.0, ..common::settings() };
    let settings = Settings { dtype: Dtype::F32, save_every: 300, ..settings };
    let run = folder.path().join("run");
    fs::create_dir(&run).unwrap();
    let outcome = train(
        &settings,
        &common::config(64),
        &data,
        &data,
        &run,
        &Machine::new(2).unwrap(),
        &|| false,
        &mut |_| {},
    )
    .unwrap();
    // What remains is the first token of each document, which nothing tells in advance.
    assert!(outcome.last.mean() < 0.1, "{} nats per token", outcome.last.mean());
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        Settings { lr: 1e30, warmup_steps: 10, grad_clip: 0.0, save_every: 1, ..common::settings() };
    let error = run(&settings, folder.path(), 2).unwrap_err();
    let text = error.to_string();
    let Error::NotFinite { step, .. } = error else { panic!("{text}") };
    assert!(
        text.contains("lower `lr`") && text.contains(&format!("checkpoint of step {step} is kept")),
        "{text}"
    );
    let (kept, _) = newest_checkpoint(&folder.path().join("run")).unwrap().unwrap();
    assert!(kept.ends_with(format!("step-{step:08}")), "{}", kept.display());
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let settings = common::settings();
    let (want, _) = run(&settings, folder.path(), 2).unwrap();
    let want = Weights::load(want.model).unwrap();
    let run_folder = folder.path().join("run");
    let (newest, _) = newest_checkpoint(&run_folder).unwrap().unwrap();
    let file = newest.join("optimizer.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();

    let (data, held_out) = data(folder.path());
    let told = Cell::new(false);
    let mut observe = |event: Event<'_>| {
        if let Event::Resumed(progress, skipped) = event {
            assert_eq!(progress.step, settings.steps - settings.save_every);
            assert!(skipped[0].contains("optimizer.safetensors"), "{skipped:?}");
            told.set(true);
        }
    };
    let config = common::config(64);
    let again = train(
        &settings,
        &config,
        &data,
        &held_out,
        &run_folder,
        &Machine::new(2).unwrap(),
        &|| false,
        &mut observe,
    )
    .unwrap();
    assert!(told.get());
    assert!(Weights::load(again.model).unwrap() == want);
}

#[test]
fn other_settings_do_not_go_on_from_these_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    run(&common::settings(), folder.path(), 2).unwrap();
    let muon = Settings { muon: Some(common::MUON), ..common::settings() };
    for other in [Settings { lr: 2e-2, ..common::settings() }, muon.clone()] {
        let error = run(&other, folder.path(), 2).unwrap_err();
        assert!(matches!(error, Error::OtherRun { .. }), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    run(&muon, folder.path(), 2).unwrap();
    let other = Muon { momentum: 0.9, ..common::MUON };
    for other in [common::settings(), Settings { muon: Some(other), ..common::settings() }] {
        let error = run(&other, folder.path(), 2).unwrap_err();
        assert!(matches!(error, Error::OtherRun { .. }), "{error}");
    }
}

#[test]
fn what_muon_trains_has_one_moment() {
    let folder = tempfile::tempdir().unwrap();
    run(&Settings { muon: Some(common::MUON), ..common::settings() }, folder.path(), 2).unwrap();
    let (newest, _) = newest_checkpoint(&folder.path().join("run")).unwrap().unwrap();
    let file = SafetensorsFile::open(newest.join("optimizer.safetensors")).unwrap();
    for spec in layout(&common::config(64)) {
        let has = |moment: &str| file.tensor(&format!("{moment}.{}", spec.name)).is_some();
        let by_adamw = spec.role.is_norm() || spec.role == TensorRole::TokenEmbeddings;
        assert_eq!((has("mean"), has("square")), (true, by_adamw), "{}", spec.name);
    }
}

/// The fingerprint is made of these: runs of AdamW go on that began before there was another optimiser.
#[test]
fn settings_of_adamw_are_written_as_ever() {
    let json = serde_json::to_string(&common::settings()).unwrap();
    let as_ever = r#"{"dtype":"bf16","batch_rows":2,"grad_accum":2,"steps":60,"lr":0.01,"min_lr_ratio":0.1,"warmup_steps":5,"weight_decay":0.1,"beta1":0.9,"beta2":0.95,"eps":1e-8,"grad_clip":1.0,"z_loss":0.0001,"eval_every":5,"eval_rows":4,"save_every":4,"keep_last":2,"average_last":3,"seed":11}"#;
    assert_eq!(json, as_ever);
    assert_eq!(serde_json::from_str::<Settings>(as_ever).unwrap(), common::settings());
}

#[test]
fn a_corpus_below_one_step_and_senseless_settings_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = run(&Settings { batch_rows: 1000, ..common::settings() }, folder.path(), 2).unwrap_err();
    assert!(matches!(error, Error::TooFewRows { needed: 2000, .. }), "{error}");
    let error = run(&Settings { lr: -1.0, ..common::settings() }, folder.path(), 2).unwrap_err();
    assert!(matches!(error, Error::Setting { setting: "lr", .. }), "{error}");
    for (muon, wrong) in [
        (Muon { lr: f64::NAN, ..common::MUON }, "muon_lr"),
        (Muon { momentum: 1.0, ..common::MUON }, "muon_momentum"),
    ] {
        let settings = Settings { muon: Some(muon), ..common::settings() };
        let error = run(&settings, folder.path(), 2).unwrap_err();
        assert!(matches!(error, Error::Setting { setting, .. } if setting == wrong), "{error}");
    }
}

#[test]
fn interrupted_it_saves_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (data, held_out) = data(folder.path());
    let (settings, config) = (common::settings(), common::config(64));
    let whole = folder.path().join("whole");
    let stopped = folder.path().join("stopped");
    let quiet = &mut |_: Event<'_>| {};
    fs::create_dir(&whole).unwrap();
    fs::create_dir(&stopped).unwrap();
    let want =
        train(&settings, &config, &data, &held_out, &whole, &Machine::new(2).unwrap(), &|| false, quiet)
            .unwrap();
    let steps = Cell::new(0);
    let interrupt = || {
        steps.set(steps.get() + 1);
        steps.get() == 7
    };
    let error =
        train(&settings, &config, &data, &held_out, &stopped, &Machine::new(2).unwrap(), &interrupt, quiet)
            .unwrap_err();
    assert!(matches!(error, Error::Interrupted { step: 7 }), "{error}");
    let got =
        train(&settings, &config, &data, &held_out, &stopped, &Machine::new(2).unwrap(), &|| false, quiet)
            .unwrap();
    assert_eq!(want.held_out, got.held_out);
}

#[test]
fn what_a_kill_left_of_an_old_checkpoint_is_removed_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let settings = common::settings();
    run(&settings, folder.path(), 1).unwrap();
    // As if it was killed while it removed a checkpoint after the last step.
    let old = folder.path().join("run/checkpoints/step-00000044");
    fs::create_dir(&old).unwrap();
    fs::write(old.join("config.json"), "{}").unwrap();
    run(&settings, folder.path(), 1).unwrap();
    assert!(!old.exists(), "{} is still there", old.display());
}
