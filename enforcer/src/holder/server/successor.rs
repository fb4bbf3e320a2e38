//! Hands everything over to another version of this program.

use super::{Server, Turn};
use crate::holder::protocol::Reply;
use crate::holder::succession::Succession;
use std::os::fd::AsRawFd as _;

impl Server {
    /// Executes the successor, if one is wanted and nothing is under way.
    pub(super) fn hand_over(&mut self) {
        if !matches!(self.turn, Turn::Free(_)) {
            return;
        }
        let Some((id, program)) = self.successor.take() else {
            return;
        };
        let pipes = self.pipes.values();
        let succession = Succession {
            listener: self.listener.as_raw_fd(),
            pipes: pipes
                .map(|kept| (kept.workload.clone(), kept.inode, kept.reader.as_raw_fd()))
                .collect(),
            bounds: self.bounds.clone(),
            notices: self.notices.inheritance(),
            deadlines: self.deadlines.all(),
            sockets: self.sockets.inheritance(),
        };
        let error = succession.execute(&self.options.runtime_dir, &program);
        self.connections.reply(id, &Reply::failed(&error));
    }
}
