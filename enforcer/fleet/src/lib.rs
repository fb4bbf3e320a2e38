//! Runs workloads on many hosts, with etcd between them.

pub mod etcd;
