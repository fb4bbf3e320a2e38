//! Runs workloads on many hosts, with etcd between them.

pub mod drive;
pub mod etcd;
