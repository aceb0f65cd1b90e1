//! Which instructions there are.

use crate::error::{Error, Result};
use std::fmt;

/// An instruction set that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Plain Rust.
    Scalar,
    /// 64-bit Arm as every such processor has it.
    Neon,
    /// 64-bit Arm with dot products of bytes: from Armv8.2 on, such as Cortex-A55 and A76.
    NeonDot,
    /// x86 with 256-bit integers. Sums are exact: products of 16-bit numbers, never the saturating ones of bytes.
    Avx2,
    /// x86 with dot products of bytes on 256 bits.
    AvxVnni,
    /// x86 with dot products of bytes on 512 bits.
    Avx512Vnni,
}

impl Isa {
    /// All of them, the slowest first.
    pub const ALL: [Self; 6] =
        [Self::Scalar, Self::Neon, Self::NeonDot, Self::Avx2, Self::AvxVnni, Self::Avx512Vnni];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::NeonDot => "neon-dotprod",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx-vnni",
            Self::Avx512Vnni => "avx512-vnni",
        }
    }

    /// Whether this processor has it.
    #[must_use]
    pub fn is_here(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            _ => false,
        }
    }

    /// Those that this processor has, the slowest first.
    pub fn here() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_here())
    }

    /// The fastest that this processor has.
    #[must_use]
    pub fn best() -> Self {
        Self::here().last().unwrap_or(Self::Scalar)
    }

    pub(crate) fn check(self) -> Result<Self> {
        if self.is_here() { Ok(self) } else { Err(Error::NoSuchIsa(self.name())) }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Does some work with the widest vectors that an instruction set has: compilers make loops over plain numbers into such.
#[inline]
pub(crate) fn widest<R>(isa: Isa, work: impl FnOnce() -> R) -> R {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a layer of an instruction set exists only where `Isa::check` found it.
        Isa::Avx512Vnni => unsafe { by_512(work) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 | Isa::AvxVnni => unsafe { by_256(work) },
        _ => work(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn by_512<R>(work: impl FnOnce() -> R) -> R {
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn by_256<R>(work: impl FnOnce() -> R) -> R {
    work()
}
