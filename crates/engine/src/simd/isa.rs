//! Which instructions are there, and which to use.

use std::fmt;
use std::str::FromStr;

/// An instruction set that the kernels are compiled for, from the plainest to the widest.
///
/// Values come only from [`Isa::detect`] and [`Isa::available`], so that one in hand proves that this
/// machine has the instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust, one value at a time: the definition that the others are tested against.
    Scalar,
    /// 8 lanes with fused multiply-add and half-precision conversion; bf16 products are computed in f32.
    Avx2,
    /// 16 lanes with bf16 and 8-bit dot products (Zen 4, Cooper Lake, Sapphire Rapids and later).
    Avx512,
    /// As [`Isa::Avx512`], with bf16 and 8-bit matrix products on tiles (Sapphire Rapids and later).
    Amx,
}

/// The variable that forces an instruction set: `scalar`, `avx2`, `avx512` or `amx`.
const VARIABLE: &str = "ELMWOOD_ISA";

impl Isa {
    /// The widest instruction set of this machine, or the one that the variable `ELMWOOD_ISA` names.
    ///
    /// # Errors
    /// [`IsaError`] if the variable names one that is unknown or not there.
    pub fn detect() -> Result<Self, IsaError> {
        match std::env::var(VARIABLE) {
            Ok(name) if !name.is_empty() => name.parse(),
            _ => Ok(*Self::available().last().expect("scalar code runs everywhere")),
        }
    }

    /// All instruction sets that this machine can run, the plainest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut found = vec![Self::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bf16")
                && is_x86_feature_detected!("avx512vnni");
            if avx2 {
                found.push(Self::Avx2);
            }
            if avx2 && avx512 {
                found.push(Self::Avx512);
                if crate::amx::is_available() {
                    found.push(Self::Amx);
                }
            }
        }
        found
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        })
    }
}

/// `ELMWOOD_ISA` asks for what is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{VARIABLE}` asks for `{asked}`, but this machine offers {}", list(.offered))]
pub struct IsaError {
    asked: String,
    offered: Vec<Isa>,
}

fn list(offered: &[Isa]) -> String {
    offered.iter().map(|isa| format!("`{isa}`")).collect::<Vec<_>>().join(", ")
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        let offered = Self::available();
        match offered.iter().find(|isa| isa.to_string() == name) {
            Some(isa) => Ok(*isa),
            None => Err(IsaError { asked: name.to_owned(), offered }),
        }
    }
}
