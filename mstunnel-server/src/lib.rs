//! A self-hosted Microsoft Tunnel server, as a library: the binaries are thin.

#![forbid(unsafe_code)]

pub mod admin;
pub mod cli;
pub mod config;
pub mod egress;
pub mod identity;
pub mod logs;
pub mod serve;
pub mod tls;
pub mod worker;
