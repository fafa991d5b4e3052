//! The formats, one file each.

mod bf16;
mod e2m1;
mod f16;
mod f32;
mod fixed;
mod fp8_e4m3;
mod fp8_e5m2;
mod int2;
mod int4;
mod int4_asym;
mod int6;
mod int8;
mod int8_dynamic;
mod mxfp4;
mod nf4;
mod nf4_dq;
mod nvfp4;
mod q8_0;
mod scaled;
mod ternary;
mod tq1_0;
mod tq2_0;

pub use bf16::Bf16;
pub use f16::F16;
pub use f32::F32;

pub(crate) use e2m1::E2M1Scaled;
pub(crate) use fixed::Fixed;
pub(crate) use fp8_e4m3::Fp8E4M3;
pub(crate) use fp8_e5m2::Fp8E5M2;
pub(crate) use int2::Int2;
pub(crate) use int4::Int4;
pub(crate) use int4_asym::Int4Asym;
pub(crate) use int6::Int6;
pub(crate) use int8::Int8;
pub(crate) use int8_dynamic::Int8Dynamic;
pub(crate) use mxfp4::Mxfp4;
pub(crate) use nf4::Nf4;
pub(crate) use nf4_dq::Nf4Dq;
pub(crate) use nvfp4::Nvfp4;
pub(crate) use q8_0::Q8_0;
pub(crate) use scaled::Scaled;
pub(crate) use ternary::Ternary;
pub(crate) use tq1_0::Tq1_0;
pub(crate) use tq2_0::Tq2_0;

#[cfg(test)]
mod levels;
