//! The only room that knows NATS.
