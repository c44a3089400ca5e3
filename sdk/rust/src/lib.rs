//! Run untrusted workloads in microVMs.
