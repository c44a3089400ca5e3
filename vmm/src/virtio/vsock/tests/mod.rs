//! The device against a driver and a guest of its own, without a machine: rings in ordinary memory, and a loop that asks
//! the executor as the queue worker does.
#![allow(clippy::arithmetic_side_effects)]

mod conversations;
mod credit;
mod endings;
mod guest;
mod hostile;
mod load;
mod machine;
mod observed;
mod parts;
