//! The loop.

use std::path::{Path, PathBuf};
use std::time::Instant;

use elmwood_data::PackedTokens;
use elmwood_engine::{AdamW, Arena, Batch, Gradients, LossGradient, Moments, Muon, PackedParameters, Tape};
use elmwood_model::{FloatType, Model, OpenElmConfig, Weights};

use crate::batches::{RowOrder, fill};
use crate::checkpoint::{self, CHECKPOINTS, Progress, Restored, newest_checkpoint};
use crate::evaluate::{HeldOutLoss, evaluate};
use crate::metrics::MetricsWriter;
use crate::{Error, Machine, Settings, StepMetrics, muon_moments};

/// What a run tells while it goes on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The run goes on after a checkpoint; the texts say what is wrong with newer ones.
    Resumed(&'a Progress, &'a [String]),
    /// A step was done.
    Step(&'a StepMetrics),
    /// A checkpoint was written.
    Saved(&'a Path),
}

/// What a run made.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The final model: a Hugging Face folder without a tokenizer.
    pub model: PathBuf,
    /// Its loss on all held-out rows.
    pub held_out: HeldOutLoss,
    /// That of the last step's weights, and of the mean of the last checkpoints if one was taken. The better
    /// of the two is the final model.
    pub last: HeldOutLoss,
    /// See `last`.
    pub averaged: Option<HeldOutLoss>,
    /// Steps done.
    pub steps: u64,
    /// Tokens predicted in training.
    pub tokens: u64,
}

/// Trains a model of `config` on `data`, with checkpoints and metrics in `folder` and the final model in
/// `folder/model`. If `folder` has checkpoints of the same run, goes on from there.
/// `interrupted` is asked after every step.
///
/// # Errors
/// [`Error`]; whatever it is, the newest whole checkpoint remains.
#[expect(clippy::too_many_arguments, reason = "a run has this many sides, each with one reader")]
pub fn train(
    settings: &Settings,
    config: &OpenElmConfig,
    data: &PackedTokens,
    held_out: &PackedTokens,
    folder: &Path,
    machine: &Machine,
    interrupted: &dyn Fn() -> bool,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, Error> {
    settings.check()?;
    check_fit(settings, config, data)?;
    check_fit(&Settings { batch_rows: 1, grad_accum: 1, ..settings.clone() }, config, held_out)?;
    let mut run = Run::start(settings, config, data, held_out, folder, machine, observe)?;
    while run.progress.step < settings.steps {
        run.step(observe)?;
        if interrupted() && run.progress.step < settings.steps {
            if run.saved != run.progress.step {
                let eval_loss = run.evaluate(run.progress.step - 1)?;
                run.save(eval_loss, observe)?;
            }
            return Err(Error::Interrupted { step: run.progress.step });
        }
    }
    run.finish()
}

/// Whether the tokens are of the model's vocabulary and context, and fill a step.
fn check_fit(settings: &Settings, config: &OpenElmConfig, data: &PackedTokens) -> Result<(), Error> {
    let mismatch = |what| Err(Error::Mismatch { what });
    if data.vocab_size() as usize > config.vocab_size() {
        return mismatch(format!(
            "ids up to {}, a vocabulary of {}",
            data.vocab_size() - 1,
            config.vocab_size()
        ));
    }
    if data.seq_len() > config.max_context_length() {
        return mismatch(format!(
            "rows of {} tokens, a context of {}",
            data.seq_len(),
            config.max_context_length()
        ));
    }
    if data.rows() < settings.rows_per_step() {
        let (rows, needed, seq_len) = (data.rows(), settings.rows_per_step(), data.seq_len());
        return Err(Error::TooFewRows { rows, needed, seq_len });
    }
    Ok(())
}

struct Run<'a> {
    settings: &'a Settings,
    data: &'a PackedTokens,
    held_out: &'a PackedTokens,
    folder: &'a Path,
    machine: &'a Machine,
    arena: Arena,
    /// The matrices packed for all batches of a step, where there are several.
    packed: Option<PackedParameters>,
    model: Model,
    gradients: Gradients,
    moments: Moments,
    order: RowOrder,
    batches: Vec<Batch>,
    per_token: Vec<f32>,
    progress: Progress,
    /// The step of the newest checkpoint.
    saved: u64,
    metrics: MetricsWriter,
}

impl<'a> Run<'a> {
    fn start(
        settings: &'a Settings,
        config: &OpenElmConfig,
        data: &'a PackedTokens,
        held_out: &'a PackedTokens,
        folder: &'a Path,
        machine: &'a Machine,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<Self, Error> {
        let fingerprint = fingerprint(settings, config, data);
        let moments = |model: &Model| match settings.muon {
            None => Moments::new(model.parameters()),
            Some(_) => muon_moments(config, model.parameters()),
        };
        let Restored { progress, model, moments } = match newest_checkpoint(folder)? {
            Some((path, skipped)) => {
                // Asked first: what another optimiser left cannot even be read.
                if checkpoint::load_progress(&path)?.fingerprint != fingerprint {
                    return Err(Error::OtherRun { folder: folder.join(CHECKPOINTS) });
                }
                let restored = checkpoint::load(&path, moments)?;
                observe(Event::Resumed(&restored.progress, &skipped));
                restored
            }
            None => {
                let model = Model::new(config.clone(), &Weights::init(config, settings.seed));
                let moments = moments(&model);
                let best = (0, f64::INFINITY);
                let progress =
                    Progress { fingerprint, step: 0, rows: 0, tokens: 0, eval_loss: f64::INFINITY, best };
                Restored { progress, model, moments }
            }
        };
        Ok(Self {
            settings,
            data,
            held_out,
            folder,
            machine,
            arena: Arena::default(),
            packed: (settings.grad_accum > 1).then(|| PackedParameters::for_training(settings.dtype.into())),
            gradients: Gradients::new(model.parameters()),
            order: RowOrder::new(data.rows(), settings.seed),
            batches: (0..settings.grad_accum).map(|_| Batch::new(data.seq_len())).collect(),
            per_token: vec![0.0; settings.batch_rows * data.seq_len()],
            saved: progress.step,
            metrics: MetricsWriter::resume(folder, progress.step)?,
            model,
            moments,
            progress,
        })
    }

    /// One optimiser step, with what is due after it.
    fn step(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<(), Error> {
        let started = Instant::now();
        let (settings, cpu) = (self.settings, &self.machine.cpu);
        cpu.profile().switch(self.machine.profile);
        let whole_step = cpu.profile().span("everything else", 0, 0);
        let (step, lr) = (self.progress.step, settings.schedule().at(self.progress.step));
        let per_step = settings.rows_per_step() as u64;
        let rows = self.rows_of(step);
        for (batch, rows) in self.batches.iter_mut().zip(rows.chunks(settings.batch_rows)) {
            fill(batch, self.data, rows);
        }
        let targets: usize = self.batches.iter().map(Batch::target_count).sum();
        let per_target = 1.0 / targets.max(1) as f64;

        let (mut cross_entropy, mut squared_log_z) = (0.0, 0.0);
        if let Some(packed) = &mut self.packed {
            packed.update(cpu, self.model.parameters());
        }
        for batch in &self.batches {
            let parameters = self.model.parameters();
            let mut tape = Tape::recording(cpu, &mut self.arena, parameters, batch, settings.dtype.into())
                .recomputing(self.machine.recompute);
            if let Some(packed) = &self.packed {
                tape = tape.with_packed(packed);
            }
            let hidden = self.model.forward(&mut tape);
            let gradient = LossGradient {
                gradients: &mut self.gradients,
                z: settings.z_loss as f32,
                grad_scale: per_target as f32,
            };
            let loss = tape.cross_entropy(hidden, self.model.head(), &mut self.per_token, Some(gradient));
            tape.backward(&mut self.gradients);
            cross_entropy += loss.cross_entropy;
            squared_log_z += loss.squared_log_z;
        }
        let loss = cross_entropy * per_target;
        let grad_norm = self.gradients.norm(cpu);
        for (what, value) in [("loss", loss), ("length of the gradient", grad_norm)] {
            self.must_be_finite(what, value, step)?;
        }
        let adamw = AdamW {
            lr: lr as f32,
            beta1: settings.beta1 as f32,
            beta2: settings.beta2 as f32,
            eps: settings.eps as f32,
            weight_decay: settings.weight_decay as f32,
            step: step + 1,
        };
        let clip =
            if settings.grad_clip > 0.0 { (settings.grad_clip / (grad_norm + 1e-6)).min(1.0) } else { 1.0 };
        let parameters = self.model.parameters_mut();
        self.moments.step(cpu, &adamw, clip as f32, &mut self.gradients, parameters);
        if let Some(muon) = settings.muon {
            let muon = Muon {
                lr: (lr / settings.lr * muon.lr) as f32,
                momentum: muon.momentum as f32,
                weight_decay: settings.weight_decay as f32,
                dtype: settings.dtype.into(),
            };
            let (arena, gradients) = (&mut self.arena, &mut self.gradients);
            self.moments.step_muon(cpu, arena, &muon, clip as f32, gradients, parameters);
        }
        // What is evaluated now may use their memory.
        self.gradients.clear();
        drop(whole_step);
        cpu.profile().switch(false);
        self.progress.step += 1;
        self.progress.rows += per_step;
        self.progress.tokens += targets as u64;

        let mut metrics = StepMetrics {
            step: self.progress.step,
            tokens: self.progress.tokens,
            loss,
            z_loss: settings.z_loss * squared_log_z * per_target,
            lr,
            grad_norm,
            tokens_per_sec: targets as f64 / started.elapsed().as_secs_f64(),
            eval_loss: None,
        };
        let last = self.progress.step == settings.steps;
        let save = last || self.progress.step.is_multiple_of(settings.save_every);
        if save || self.progress.step.is_multiple_of(settings.eval_every) {
            metrics.eval_loss = Some(self.evaluate(step)?);
        }
        // Before the checkpoint: whoever goes on from it drops later lines, but cannot make up missing ones.
        self.metrics.write(&metrics)?;
        if save && let Some(eval_loss) = metrics.eval_loss {
            self.save(eval_loss, observe)?;
        }
        observe(Event::Step(&metrics));
        Ok(())
    }

    /// The rows of the corpus that step `step`, from 0, learns from.
    fn rows_of(&mut self, step: u64) -> Vec<usize> {
        let per_step = self.settings.rows_per_step() as u64;
        (step * per_step..(step + 1) * per_step).map(|place| self.order.row(place)).collect()
    }

    /// Stops a run that a value of step `step` shows to be lost. Asked before every checkpoint too, so that
    /// those that are kept are good ones.
    fn must_be_finite(&mut self, what: &'static str, value: f64, step: u64) -> Result<(), Error> {
        if value.is_finite() {
            return Ok(());
        }
        let (rows, lr) = (self.rows_of(step), self.settings.schedule().at(step));
        let kept = match self.saved {
            0 => "there is no checkpoint yet".to_owned(),
            saved => format!("the checkpoint of step {saved} is kept"),
        };
        Err(Error::NotFinite { what, value, step, rows, lr, kept })
    }

    /// The held-out loss of a part of the rows after step `step`, in nats per token.
    fn evaluate(&mut self, step: u64) -> Result<f64, Error> {
        let (dtype, rows) = (self.settings.dtype.into(), self.settings.eval_rows);
        let loss =
            evaluate(&self.model, &self.machine.cpu, &mut self.arena, dtype, self.held_out, rows).mean();
        self.must_be_finite("held-out loss", loss, step)?;
        Ok(loss)
    }

    /// Writes a checkpoint of the present state and removes those that are no longer needed.
    fn save(&mut self, eval_loss: f64, observe: &mut dyn FnMut(Event<'_>)) -> Result<(), Error> {
        self.progress.eval_loss = eval_loss;
        if self.progress.eval_loss < self.progress.best.1 {
            self.progress.best = (self.progress.step, self.progress.eval_loss);
        }
        let checkpoints = self.folder.join(CHECKPOINTS);
        let path = checkpoint::save(&checkpoints, &self.progress, &self.model, &self.moments)?;
        self.saved = self.progress.step;
        self.prune()?;
        observe(Event::Saved(&path));
        Ok(())
    }

    /// Removes checkpoints that are no longer needed.
    fn prune(&self) -> Result<(), Error> {
        let settings = self.settings;
        let keep = settings.keep_last.max(settings.average_last);
        let checkpoints = self.folder.join(CHECKPOINTS);
        checkpoint::prune(&checkpoints, keep, settings.save_every, settings.steps, self.progress.best.0)
    }

    /// Chooses between the last weights and the mean of the last checkpoints, and saves the final model.
    fn finish(mut self) -> Result<Outcome, Error> {
        // A run that was killed while it removed the last ones left some, perhaps in part.
        self.prune()?;
        let (settings, config) = (self.settings, self.model.config().clone());
        let checkpoints = self.folder.join(CHECKPOINTS);
        let mut judge = |model: &Model| {
            evaluate(
                model,
                &self.machine.cpu,
                &mut self.arena,
                settings.dtype.into(),
                self.held_out,
                usize::MAX,
            )
        };
        let last = judge(&self.model);
        let mean =
            checkpoint::average(&checkpoints, settings.average_last, settings.save_every, settings.steps)?;
        let mean = mean.map(|weights| (judge(&Model::new(config.clone(), &weights)), weights));
        let averaged = mean.as_ref().map(|(loss, _)| *loss);
        let (held_out, weights) = match mean {
            Some((loss, weights)) if loss.nats < last.nats => (loss, weights),
            _ => (last, self.model.to_weights()),
        };
        let model = self.folder.join("model");
        weights.save(&model, &config, FloatType::F32)?;
        Ok(Outcome {
            model,
            held_out,
            last,
            averaged,
            steps: self.progress.step,
            tokens: self.progress.tokens,
        })
    }
}

/// What must be the same for a run to go on.
fn fingerprint(settings: &Settings, config: &OpenElmConfig, data: &PackedTokens) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&serde_json::to_vec(settings).expect("settings are plain data"));
    hasher.update(config.to_json().as_bytes());
    hasher.update(&serde_json::to_vec(data.stats()).expect("statistics are plain data"));
    for row in 0..data.rows() {
        for token in data.row(row).tokens {
            hasher.update(&token.to_le_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}
