//! The requests of agents.

use super::{SETTLE_WITHIN, Server};
use crate::holder::protocol::{self, Program, Reply, Request};
use crate::holder::writer::Job;
use enforcer_kernel::clock::awake_now;
use std::io;
use std::os::fd::OwnedFd;

impl Server {
    /// Carries a request out; returns `None` if the reply comes later.
    pub(super) fn carry_out(
        &mut self,
        id: u64,
        request: Request,
        descriptor: Option<OwnedFd>,
    ) -> Option<Reply> {
        let done = match request {
            Request::Hello { .. } => {
                return Some(match Program::own() {
                    Ok(program) => Reply::Hello {
                        version: protocol::VERSION,
                        program,
                        is_unit: self.options.is_unit,
                        logs: self.options.logs.clone(),
                        pipes: self.pipes.values().map(|kept| kept.inode).collect(),
                        speakers: self.notices.speakers(),
                        keeps_sockets: true,
                        keeps_deadlines: true,
                    },
                    Err(error) => Reply::failed(&error),
                });
            }
            Request::Keep {
                workload,
                inode,
                bounds,
            } => match descriptor {
                Some(reader) => {
                    self.set_bounds(workload.clone(), bounds);
                    self.keep(workload, inode, reader)
                }
                None => Err(io::Error::other("no pipe came with it")),
            },
            Request::SetBounds { workload, bounds } => {
                self.set_bounds(workload, bounds);
                Ok(())
            }
            Request::SetAside { workload, bounds } => {
                self.bounds.insert(workload.clone(), bounds);
                self.ask(Job::SetAside(workload, bounds, id));
                return None;
            }
            Request::Listen(speaker) => match descriptor {
                Some(socket) => self.notices.keep(speaker, socket),
                None => Err(io::Error::other("no socket came with it")),
            },
            Request::Ignore { workload } => {
                self.notices.forget(&workload);
                Ok(())
            }
            Request::KeepSocket { name, made_for } => match descriptor {
                Some(socket) => {
                    self.sockets.keep(name, made_for, socket);
                    Ok(())
                }
                None => Err(io::Error::other("no socket came with it")),
            },
            Request::CloseSocket { name } => {
                self.sockets.close(&name);
                Ok(())
            }
            Request::NextSocket { behind } => match self.sockets.after(behind.as_ref()) {
                Some((name, made_for, socket)) => {
                    let reply = Reply::Socket {
                        name: name.clone(),
                        made_for: made_for.to_owned(),
                    };
                    self.connections.reply_with(id, &reply, Some(socket));
                    return None;
                }
                None => Ok(()),
            },
            Request::Deadlines { ends } => self.deadlines.replace(ends),
            Request::Settle => {
                self.settling.push((id, awake_now() + SETTLE_WITHIN));
                self.next_round = None;
                return None;
            }
            Request::Follow => {
                self.connections.follow(id);
                Ok(())
            }
            Request::Recall { behind } => {
                // What is waiting was said already.
                self.notices.read();
                return Some(self.notices.recall(behind));
            }
            // A successor would know nothing of the end that is under way.
            Request::Succeed if self.ending_since.is_some() || self.stop.has_begun() => {
                Err(io::Error::other("it is about to end"))
            }
            Request::Succeed => match descriptor {
                Some(program) => {
                    self.successor = Some((id, program));
                    return None;
                }
                None => Err(io::Error::other("no program came with it")),
            },
            Request::End => {
                self.end();
                Ok(())
            }
        };
        Some(match done {
            Ok(()) => Reply::Done,
            Err(error) => Reply::failed(&error),
        })
    }
}
