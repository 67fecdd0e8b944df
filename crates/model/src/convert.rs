//! Models from one form into another: Hugging Face folders, GGUF files and models of llama2.c become GGUF files,
//! quantised or not, and the latter two become folders.
//!
//! What goes where is planned before anything is written (`plan`): each tensor of the new file is a list of rows of
//! tensors of the old ones, since formats cut matrices differently and order their rows differently. Then tensors are
//! written one after the other, a few rows at a time (`rows`), so that a model may be larger than memory. Rows that are
//! already in the form that is wanted are copied as they are.

mod folder;
mod plan;
mod quantization;
mod rows;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use elmwood_engine::Cpu;
use plan::Outgoing;
pub use quantization::Quantization;
use quantization::{MixModel, type_of_rows};
use rows::Encoder;

use crate::error::read_text;
use crate::gguf::is_gguf;
use crate::llama2_c::{self, Checkpoint};
use crate::local::MAX_CONFIG_BYTES;
use crate::local::names::Naming;
use crate::local::tensors::TensorFiles;
use crate::{
    Architecture, CONFIG_FILE, Error, GgmlType, GgufFile, GgufMetadata, GgufTensorSpec, GgufWriter,
    SafetensorsFolder, TOKENIZER_FILE, Tokenizer,
};

/// Version of the quantised formats, which have not changed since.
const QUANTIZATION_VERSION: u32 = 2;

/// A model that is to be converted: what it says of itself, and where its tensors are.
#[derive(Debug)]
pub struct SourceModel {
    files: Files,
    metadata: GgufMetadata,
    tensors: Vec<Outgoing>,
    has_tokenizer: bool,
}

/// The open files of a model.
#[derive(Debug)]
enum Files {
    Gguf(GgufFile),
    Folder(PathBuf, SafetensorsFolder),
    Checkpoint(Checkpoint),
}

impl Files {
    fn tensors(&self) -> TensorFiles<'_> {
        match self {
            Self::Gguf(file) => TensorFiles::Gguf(file),
            Self::Folder(path, folder) => TensorFiles::Folder(path, folder),
            Self::Checkpoint(checkpoint) => TensorFiles::Checkpoint(checkpoint),
        }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Converted {
    /// Bytes of the file.
    pub bytes: u64,
    /// Weights in all tensors.
    pub weights: u64,
    /// How many tensors there are of each type, by name of the type.
    pub tensors: BTreeMap<&'static str, usize>,
    /// Bits that a weight takes on average, header and padding aside.
    pub bits_per_weight: f64,
    /// How many tensors had few bits before and were given others, which costs accuracy twice.
    pub requantised: usize,
}

impl SourceModel {
    /// Opens a Hugging Face folder, a GGUF file or a model of llama2.c. `tokenizer` is for the latter, or stands in for a
    /// folder's own: a `tokenizer.bin`, or anything that [`Tokenizer::open`] reads.
    ///
    /// # Errors
    /// Those of the files; [`Error::Tensors`] for tensors that are missing or of another shape; [`Error::Conversion`] for
    /// a model that GGUF files have no layout for.
    pub fn open(path: impl AsRef<Path>, tokenizer: Option<&Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        if path.is_dir() {
            Self::open_folder(path, tokenizer)
        } else if is_gguf(path) {
            match tokenizer {
                None => Self::open_gguf(path),
                Some(_) => {
                    let reason = "a GGUF file brings its own tokenizer".into();
                    Err(Error::Conversion { path: path.to_owned(), reason })
                }
            }
        } else {
            Self::open_checkpoint(path, tokenizer)
        }
    }

    fn open_folder(path: &Path, tokenizer: Option<&Path>) -> Result<Self, Error> {
        let config = path.join(CONFIG_FILE);
        let text = read_text(&config, MAX_CONFIG_BYTES)?;
        let architecture = Architecture::from_config_json(&text).map_err(|error| error.in_file(&config))?;
        let files = Files::Folder(path.to_owned(), SafetensorsFolder::open(path)?);
        let from = Naming::of_folder(architecture.family);
        let has_own = path.join(TOKENIZER_FILE).is_file();
        let tokenizer = match tokenizer.or(has_own.then_some(path)) {
            Some(path) => Some(Tokenizer::open(path)?),
            None => None,
        };
        let mut this = Self::planned(path, files, &architecture, from)?;
        if let Some(tokenizer) = &tokenizer {
            tokenizer.write_gguf(&mut this.metadata)?;
            this.pad_vocabulary(architecture.vocab_size)?;
        } else {
            this.write_token_ids(&architecture);
        }
        this.has_tokenizer = tokenizer.is_some();
        Ok(this)
    }

    fn open_checkpoint(path: &Path, tokenizer: Option<&Path>) -> Result<Self, Error> {
        let checkpoint = Checkpoint::open(path)?;
        let tokenizer =
            tokenizer.map_or_else(|| checkpoint.tokenizer_beside(), |path| Ok(path.to_owned()))?;
        let architecture = checkpoint.architecture().clone();
        let mut this = Self::planned(path, Files::Checkpoint(checkpoint), &architecture, Naming::GgufLlama)?;
        llama2_c::write_tokenizer(&tokenizer, architecture.vocab_size, &mut this.metadata)?;
        this.has_tokenizer = true;
        Ok(this)
    }

    /// All tensors and keys as they are, whatever they mean.
    fn open_gguf(path: &Path) -> Result<Self, Error> {
        let file = GgufFile::open(path)?;
        if file.metadata().get::<u64>("split.count").ok().flatten().is_some_and(|n| n > 1) {
            let reason = "it is one of several files of a model; join them first (llama-gguf-split --merge)";
            return Err(Error::Conversion { path: path.to_owned(), reason: reason.into() });
        }
        let tensors = file.tensors().map(|tensor| Outgoing::whole(tensor.name, tensor.shape)).collect();
        let has_tokenizer = file.metadata().value("tokenizer.ggml.tokens").is_some();
        Ok(Self { metadata: file.metadata().clone(), files: Files::Gguf(file), tensors, has_tokenizer })
    }

    /// A model whose tensors are renamed and cut as GGUF files have them.
    fn planned(path: &Path, files: Files, architecture: &Architecture, from: Naming) -> Result<Self, Error> {
        let unconvertible = |reason: String| Error::Conversion { path: path.to_owned(), reason };
        let mut metadata = GgufMetadata::default();
        // Set first, so that it stands first in the file.
        metadata.set("general.architecture", "");
        metadata.set("general.type", "model");
        if let Some(name) = path.canonicalize().ok().as_deref().and_then(Path::file_stem) {
            metadata.set("general.name", name.to_string_lossy().into_owned());
        }
        let factors = architecture.write_gguf(&mut metadata).map_err(unconvertible)?;
        let to = Naming::of_gguf(architecture.gguf_name().unwrap_or_default());
        let mut tensors = plan::tensors(&files.tensors(), architecture, from, to)?;
        tensors.extend(factors.into_iter().map(|(name, values)| Outgoing::values(name, values)));
        Ok(Self { files, metadata, tensors, has_tokenizer: false })
    }

    /// Whether there is a tokenizer that goes into the file.
    #[must_use]
    pub fn has_tokenizer(&self) -> bool {
        self.has_tokenizer
    }

    /// Without a tokenizer, programs still want to know how many tokens there are, and which ones begin and end.
    fn write_token_ids(&mut self, architecture: &Architecture) {
        self.metadata.set("tokenizer.ggml.model", "none");
        for (key, id) in [("bos", architecture.bos), ("eos", architecture.eos.first().copied())] {
            id.into_iter().for_each(|id| self.metadata.set(format!("tokenizer.ggml.{key}_token_id"), id));
        }
    }

    /// Embeddings may have more rows than there are tokens; the format wants a token for each.
    fn pad_vocabulary(&mut self, rows: usize) -> Result<(), Error> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let mut texts = self.metadata.strings(&key("tokens"))?.to_vec();
        if texts.len() > rows {
            let reason = format!("its tokenizer has {} tokens, and its embedding {rows} rows", texts.len());
            return Err(Error::Conversion { path: self.files.tensors().path().to_owned(), reason });
        }
        texts.extend((texts.len()..rows).map(|id| format!("[PAD{id}]")));
        self.metadata.set(key("tokens"), texts);
        let mut types: Vec<i32> = self.metadata.require(&key("token_type"))?;
        types.resize(rows, crate::tokenizer::token_type::UNUSED);
        self.metadata.set(key("token_type"), types);
        if let Some(scores) = self.metadata.get::<&[f32]>(&key("scores"))? {
            let mut scores = scores.to_vec();
            let lowest = scores.iter().copied().fold(0.0, f32::min);
            scores.resize(rows, lowest - 1.0);
            self.metadata.set(key("scores"), scores);
        }
        Ok(())
    }

    /// Writes the model as a GGUF file, whole or not at all; without `quantization`, weights keep their types.
    ///
    /// `on_progress` is told how many bytes of tensors are written, and how many there will be; if it says false, writing
    /// ends and leaves nothing, and the result is none. The bytes are the same for any number of threads.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Conversion`] for weights that cannot be read, are not finite or too large for the type.
    pub fn write_gguf(
        &self,
        cpu: &Cpu,
        quantization: Option<Quantization>,
        out: impl AsRef<Path>,
        on_progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Option<Converted>, Error> {
        let out = out.as_ref();
        let types = self.types(quantization)?;
        let spec = |(tensor, ty): (&Outgoing, &GgmlType)| GgufTensorSpec {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            ty: *ty,
        };
        let specs: Vec<GgufTensorSpec> = self.tensors.iter().zip(&types).map(spec).collect();
        let total: u64 = specs.iter().filter_map(GgufTensorSpec::n_bytes).map(|n| n as u64).sum();
        let mut writer = GgufWriter::create(out, &self.metadata_for(quantization, &types), &specs)?;
        let mut encoder = Encoder::new(cpu, self.files.tensors());
        let mut done = 0;
        for (tensor, ty) in self.tensors.iter().zip(&types) {
            let mut put = |bytes: &[u8]| {
                writer.write(bytes)?;
                done += bytes.len() as u64;
                Ok(on_progress(done, total))
            };
            if !encoder.write(tensor, *ty, &mut put)? {
                return Ok(None);
            }
        }
        writer.finish()?;
        let weights: u64 =
            self.tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum();
        let mut tensors = BTreeMap::new();
        for ty in &types {
            *tensors.entry(ty.name()).or_default() += 1;
        }
        let bytes = std::fs::metadata(out).map_err(Error::io(out))?.len();
        Ok(Some(Converted {
            bytes,
            weights,
            tensors,
            bits_per_weight: total as f64 * 8.0 / weights.max(1) as f64,
            requantised: encoder.requantised(),
        }))
    }

    /// The type of every tensor in the new file.
    fn types(&self, quantization: Option<Quantization>) -> Result<Vec<GgmlType>, Error> {
        let model = MixModel::of(&self.metadata, self.tensors.iter().map(|tensor| &*tensor.name));
        let files = self.files.tensors();
        let type_of = |tensor: &Outgoing| {
            let wanted = quantization.and_then(|to| to.type_of(&tensor.name, &tensor.shape, &model));
            match (wanted, &self.files) {
                (Some(ty), _) => Ok(ty),
                (None, Files::Gguf(file)) => {
                    Ok(file.tensor(&tensor.name).expect("tensors of the plan are there").ty)
                }
                // Vectors are small, and programs expect them in f32.
                (None, _) if tensor.shape.len() == 1 => Ok(GgmlType::F32),
                (None, _) => Ok(type_of_rows(tensor.format(&files)?)),
            }
        };
        self.tensors.iter().map(type_of).collect()
    }

    fn metadata_for(&self, quantization: Option<Quantization>, types: &[GgmlType]) -> GgufMetadata {
        let mut metadata = self.metadata.clone();
        let is_gguf = matches!(self.files, Files::Gguf(_));
        // A file that is only copied says what it said.
        let kept = || {
            let matrices = self.tensors.iter().zip(types).filter(|(tensor, _)| tensor.shape.len() > 1);
            let most = matrices
                .map(|(tensor, ty)| (tensor.shape.iter().product::<usize>(), *ty))
                .max_by_key(|x| x.0);
            Quantization::all().find(|each| most.is_some_and(|(_, ty)| each.main_type() == ty))
        };
        let stated = quantization.or_else(|| if is_gguf { None } else { kept() });
        if let Some(stated) = stated {
            metadata.set("general.file_type", stated.file_type());
            metadata.set("general.quantization_version", QUANTIZATION_VERSION);
        }
        metadata
    }
}
