//! The one integration-test binary: what needs more than one room, or the real parts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of tests fails the test")]

mod agent;
mod api;
mod architecture;
mod bus;
mod cli;
mod contract;
mod demo_data;
mod disk;
mod flip;
mod interop;
mod kill;
mod kit;
mod past;
mod proof;
mod redrive;
mod releases;
mod resource;
mod restore;
mod support;
mod trail;
