//! The one integration-test binary: what needs more than one room, or the real parts.

mod agent;
mod architecture;
mod bus;
mod contract;
mod demo_data;
mod resource;
mod support;
