//! Models as folders in Hugging Face's layout, with weights in plain numbers.

use std::collections::BTreeMap;
use std::path::Path;

use elmwood_engine::Cpu;
use half::f16;
use serde_json::json;

use super::rows::Encoder;
use super::{Converted, Files, Quantization, SourceModel, plan};
use crate::generation_config::GENERATION_CONFIG_FILE;
use crate::local::names::Naming;
use crate::tokenizer::{TOKENIZER_CONFIG_FILE, tokenizer_files};
use crate::{
    Architecture, CONFIG_FILE, Error, FloatType, GgmlType, SafetensorsWriter, TOKENIZER_FILE, Tokenizer,
    WEIGHTS_FILE,
};

impl SourceModel {
    /// Writes a GGUF file or a model of llama2.c as a folder that Hugging Face's libraries load: `config.json`,
    /// `generation_config.json`, the tokenizer, and the weights, which get their name last; each file whole or not at all.
    ///
    /// `to` is one of the plain types; if left out, plain weights keep theirs and quantised ones become f16.
    /// `on_progress` as for [`Self::write_gguf`], in bytes of weights.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Conversion`] for models and weights that have no such form;
    /// [`Error::TokenizerExport`].
    ///
    /// # Panics
    /// If `to` is a quantised type.
    pub fn write_folder(
        &self,
        cpu: &Cpu,
        to: Option<Quantization>,
        out: impl AsRef<Path>,
        on_progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Option<Converted>, Error> {
        let (out, files) = (out.as_ref(), self.files.tensors());
        let unconvertible = |reason: String| Error::Conversion { path: files.path().to_owned(), reason };
        let (architecture, from) = match &self.files {
            Files::Gguf(file) => {
                let name = self.metadata.architecture()?;
                let read = Architecture::from_gguf(file).map_err(|error| error.in_file(file.path()));
                (read?, Naming::of_gguf(name))
            }
            Files::Checkpoint(checkpoint) => (checkpoint.architecture().clone(), Naming::GgufLlama),
            Files::Folder(..) => return Err(unconvertible("it is a folder already".into())),
        };
        let dtype = match to.unwrap_or_else(|| self.plain_type()) {
            Quantization::F32 => FloatType::F32,
            Quantization::F16 => FloatType::F16,
            Quantization::BF16 => FloatType::Bf16,
            other => panic!("{other} is a quantised type"),
        };
        let config = architecture.to_config_json(dtype.torch_name()).map_err(unconvertible)?;
        let tensors = plan::tensors(&files, &architecture, from, Naming::of_folder(architecture.family))?;
        // Made first, so that what cannot be said is known before anything is written.
        let mut texts =
            vec![(CONFIG_FILE, config), (GENERATION_CONFIG_FILE, self.generation_config(&architecture)?)];
        if self.has_tokenizer {
            let tokenizer = tokenizer_files(&self.metadata)?;
            texts.push((TOKENIZER_FILE, tokenizer.tokenizer));
            texts.push((TOKENIZER_CONFIG_FILE, tokenizer.config));
        }

        let specs = tensors.iter().map(|tensor| (&*tensor.name, &tensor.shape[..]));
        let mut writer = SafetensorsWriter::create(out.join(WEIGHTS_FILE), specs, dtype)?;
        let width = dtype.dtype().n_bytes() as u64;
        let weights: u64 = tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum();
        let (mut encoder, mut done) = (Encoder::new(cpu, files), 0);
        for tensor in &tensors {
            let values = encoder.values_of(tensor)?;
            let largest = f16::MAX.to_f32();
            let beyond = values.iter().find(|value| value.is_finite() && value.abs() > largest);
            if let (FloatType::F16, Some(value)) = (dtype, beyond) {
                let reason = format!("tensor `{}`: {value} is beyond f16; take bf16", tensor.name);
                return Err(unconvertible(reason));
            }
            writer.tensor(values)?;
            done += values.len() as u64 * width;
            if !on_progress(done, weights * width) {
                return Ok(None);
            }
        }
        for (name, text) in texts {
            elmwood_durable::write_file(out.join(name), text.as_bytes())?;
        }
        writer.finish()?;
        let path = out.join(WEIGHTS_FILE);
        let bytes = std::fs::metadata(&path).map_err(Error::io(&path))?.len();
        let by_type = BTreeMap::from([(dtype.dtype().name(), tensors.len())]);
        let bits_per_weight = (8 * width) as f64;
        Ok(Some(Converted { bytes, weights, tensors: by_type, bits_per_weight, requantised: 0 }))
    }

    /// The type of the largest tensor if it is plain, else f16.
    fn plain_type(&self) -> Quantization {
        let Files::Gguf(file) = &self.files else { return Quantization::F32 };
        match file.tensors().max_by_key(|tensor| tensor.n_values()).map(|tensor| tensor.ty) {
            Some(GgmlType::F32) => Quantization::F32,
            Some(GgmlType::BF16) => Quantization::BF16,
            _ => Quantization::F16,
        }
    }

    fn generation_config(&self, architecture: &Architecture) -> Result<String, Error> {
        let mut json = json!({"max_length": architecture.context_length});
        let (bos, ends) = match &self.files {
            Files::Gguf(file) if self.has_tokenizer => {
                let tokenizer = Tokenizer::from_gguf(file)?;
                (Some(tokenizer.bos()), tokenizer.end_of_generation().to_vec())
            }
            _ => (architecture.bos, architecture.eos.clone()),
        };
        bos.into_iter().for_each(|id| json["bos_token_id"] = id.into());
        match ends[..] {
            [] => {}
            [id] => json["eos_token_id"] = id.into(),
            _ => json["eos_token_id"] = ends.into(),
        }
        Ok(serde_json::to_string_pretty(&json).expect("keys are texts") + "\n")
    }
}
