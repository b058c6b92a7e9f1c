//! A pair's steering on a thread of its own.
//!
//! ```text
//!   control thread, a vCPU ──order──▶ queue ──▶ thread `steer ID` ──▶ Steering ──▶ kernel
//!          ▲                                          │
//!          └── waits, for as long as its patience ◀───┘ done
//! ```
//! The kernel carries out changes of the network under one lock of the whole host. As a rule it answers at once, and who
//! orders a step waits for it: a guest is not resumed before its switch sends to it. Where another holds that lock for long (a
//! NIC that makes its VFs, a firmware that hangs) nobody here is to stand still with it: who has lost its patience goes on,
//! which is told once, and the steps follow when they can, in their order. Who comes meanwhile does not wait at all.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::moment::{Moment, Trouble};
use super::{Steering, Vf, Wanted};

/// What is to be done; each is the method of [`Steering`] of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// [`Steering::arm_primary`].
    ArmPrimary,
    /// [`Steering::to_both`].
    ToBoth(&'static str),
    /// [`Steering::to_primary`].
    ToPrimary(&'static str),
    /// [`Steering::to_standby`]; where that was the last moment, [`Steering::stay_at_standby`].
    ToStandby(&'static str),
    /// [`Steering::guest_left`].
    GuestLeft(&'static str),
    /// [`Steering::look_for`].
    LookFor {
        /// The primary's id.
        primary: Option<String>,
        /// Its PCI address on this host.
        vf_address: Option<String>,
    },
    /// [`Steering::primary_deleted`].
    PrimaryDeleted,
    /// [`Steering::restore`].
    Restore(&'static str),
}

impl Order {
    fn moment(&self) -> Option<Moment> {
        Some(match self {
            Order::ArmPrimary => Moment::ArmPrimary,
            Order::ToBoth(_) => Moment::ToBoth,
            Order::ToPrimary(_) => Moment::ToPrimary,
            Order::ToStandby(_) => Moment::ToStandby,
            Order::GuestLeft(_) => Moment::GuestLeft,
            Order::PrimaryDeleted => Moment::PrimaryDeleted,
            Order::Restore(_) => Moment::End,
            Order::LookFor { .. } => return None,
        })
    }

    /// Whether this one, still to be done, need not be done before `next`. A guest decides how often its switch is steered: a
    /// queue of such orders must not grow.
    fn is_overtaken_by(&self, next: &Order) -> bool {
        use Order::{ArmPrimary, GuestLeft, ToBoth, ToPrimary, ToStandby};
        let sets_all = |order: &Order| {
            matches!(
                order,
                ArmPrimary | ToPrimary(_) | ToStandby(_) | GuestLeft(_)
            )
        };
        match self {
            ToBoth(_) => sets_all(next) || matches!(next, ToBoth(_)),
            _ => sets_all(self) && sets_all(next),
        }
    }
}

/// What is known of a pair's steering without asking the kernel.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The primary that is steered, or is to be by what was ordered last.
    pub primary: Option<String>,
    /// Its VF, as far as it was found.
    pub vf: Option<Vf>,
    /// The guest's frames go to its standby, no step to that failed, and nothing else is ordered.
    pub at_standby: bool,
    /// [`Steering::describe`], when it was last looked at.
    pub description: String,
}

impl View {
    fn of(steering: &Steering) -> Self {
        Self {
            // Filled in when it is asked for.
            primary: None,
            vf: steering.surroundings().vf.as_ref().ok().cloned(),
            at_standby: steering.is_at_standby(),
            description: steering.describe(),
        }
    }
}

#[derive(Default)]
struct Queue {
    orders: VecDeque<(u64, Order)>,
    /// Number of the order that was given last.
    given: u64,
    /// All up to this one are done.
    done: u64,
    vlans: Option<Vec<u16>>,
    /// The primary, once all that was ordered is done.
    primary: Option<String>,
    view: View,
    /// Somebody has lost its patience, and the kernel has not answered since.
    late: bool,
    ending: bool,
    /// At the end the hook is waited for.
    with_hook: bool,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Held by the thread while it is at work.
    steering: Mutex<Option<Steering>>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `is_done`, at most for this long; whether it is.
    fn wait(&self, limit: Duration, is_done: impl Fn(&Queue) -> bool) -> bool {
        let queue = self.queue();
        let (queue, _) = self
            .changed
            .wait_timeout_while(queue, limit, |queue| !is_done(queue))
            .unwrap_or_else(PoisonError::into_inner);
        is_done(&queue)
    }
}

type Listener = Arc<dyn Fn(Trouble) + Send + Sync>;

/// The thread. Dropping it ends it, once it has done what it was told to.
pub struct SteeringThread {
    shared: Arc<Shared>,
    standby: String,
    patience: Duration,
    listener: Listener,
    hook_limit: Duration,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for SteeringThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SteeringThread({})", self.standby)
    }
}

impl SteeringThread {
    /// Begins with [`Steering::discover`]. Orders are waited for no longer than `patience` ([`Duration::MAX`]: for
    /// as long as it takes). `listener` is told what fails
    /// ([`Steering::on_trouble`]).
    ///
    /// # Errors
    /// As of [`Steering::discover`], if the kernel says so in time; or the host has no thread left.
    pub fn start(
        wanted: Wanted,
        patience: Duration,
        listener: impl Fn(Trouble) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        Self::start_with(wanted, patience, listener, Steering::discover)
    }

    pub(super) fn start_with(
        wanted: Wanted,
        patience: Duration,
        listener: impl Fn(Trouble) + Send + Sync + 'static,
        discover: impl FnOnce(Wanted) -> io::Result<Steering> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        shared.queue().primary.clone_from(&wanted.primary);
        let listener: Listener = Arc::new(listener);
        let standby = wanted.standby.clone();
        let hook_limit = wanted.hook.as_ref().map_or(Duration::ZERO, |h| h.timeout);
        let (of_thread, told) = (Arc::clone(&shared), Arc::clone(&listener));
        let (sender, found) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new()
            .name(format!("steer {standby}"))
            .spawn(move || {
                let outcome = discover(wanted).map(|mut steering| {
                    steering.on_trouble(move |trouble| told(trouble));
                    of_thread.queue().view = View::of(&steering);
                    *of_thread.steering() = Some(steering);
                });
                let good = outcome.is_ok();
                if let Err(error) = &outcome {
                    tracing::debug!(%error, "nothing can be steered");
                }
                // Nobody may wait any more.
                let _ = sender.send(outcome);
                if good {
                    of_thread.work();
                }
                of_thread.queue().ended = true;
                of_thread.changed.notify_all();
            })?;
        let thread = Self {
            shared,
            standby,
            patience,
            listener,
            hook_limit,
            thread: Mutex::new(Some(thread)),
        };
        match found.recv_timeout(patience) {
            Ok(outcome) => outcome?,
            Err(_) => thread.lost_patience(None),
        }
        Ok(thread)
    }

    /// Has something done, and waits for it: with patience, and not at all while the kernel is known not to answer. Whether it
    /// is done.
    pub fn order(&self, order: Order) -> bool {
        let moment = order.moment();
        let (number, late) = self.give(order);
        if late {
            return false;
        }
        let done = self
            .shared
            .wait(self.patience, |queue| queue.done >= number);
        if !done {
            self.lost_patience(moment);
        }
        done
    }

    /// Has something done, in its turn.
    pub fn post(&self, order: Order) {
        self.give(order);
    }

    /// The VLANs on which the guest is: [`Steering::set_vlans`], before what is ordered next.
    pub fn set_vlans(&self, vlans: Vec<u16>) {
        self.shared.queue().vlans = Some(vlans);
    }

    /// What is known now.
    pub fn view(&self) -> View {
        // It changes by itself with the hook.
        let fresh = match self.shared.steering.try_lock() {
            Ok(steering) => steering.as_ref().map(View::of),
            Err(_) => None,
        };
        let mut queue = self.shared.queue();
        let known = fresh.is_some();
        if let Some(view) = fresh {
            queue.view = view;
        }
        let mut view = queue.view.clone();
        view.primary = queue.primary.clone();
        view.at_standby &= queue.done == queue.given;
        if !known {
            view.description += if view.description.is_empty() {
                "the kernel has not answered yet"
            } else {
                "; the kernel is being asked"
            };
        }
        view
    }

    /// Ends it: what was ordered is done, and the hook told of it, within bounds ([`Steering::finish`]). What is ordered
    /// afterwards is not done.
    pub fn finish(&self) {
        self.shared.queue().with_hook = true;
        // Twice, as it does itself: the program that runs now may just have begun.
        let hook = self.hook_limit.saturating_mul(2);
        self.end(self.patience.saturating_add(hook));
    }

    fn give(&self, order: Order) -> (u64, bool) {
        let mut queue = self.shared.queue();
        while let Some((_, last)) = queue.orders.back()
            && last.is_overtaken_by(&order)
        {
            queue.orders.pop_back();
        }
        match &order {
            Order::LookFor { primary, .. } => queue.primary = primary.clone(),
            Order::PrimaryDeleted => queue.primary = None,
            _ => {}
        }
        queue.given += 1;
        let given = queue.given;
        queue.orders.push_back((given, order));
        self.shared.changed.notify_all();
        (given, queue.late)
    }

    /// Told once, until the kernel has answered.
    fn lost_patience(&self, moment: Option<Moment>) {
        let was = std::mem::replace(&mut self.shared.queue().late, true);
        if was {
            return;
        }
        let error = format!(
            "the kernel has not answered within {} ms; it is not waited for",
            self.patience.as_millis()
        );
        tracing::warn!(
            standby = self.standby,
            "steering the host's switch: {error}"
        );
        if let Some(moment) = moment {
            (self.listener)(Trouble {
                standby: self.standby.clone(),
                moment,
                step: "rtnetlink".to_owned(),
                error,
            });
        }
    }

    /// From now on orders are waited for so long.
    #[cfg(test)]
    pub(super) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// How many orders have not been begun.
    #[cfg(test)]
    pub(super) fn pending(&self) -> usize {
        self.shared.queue().orders.len()
    }

    /// [`finish`](Self::finish) for a test that knows how long it may take.
    #[cfg(test)]
    pub(super) fn finish_within(&self, limit: Duration) {
        self.end(limit);
    }

    fn end(&self, limit: Duration) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(thread) = thread else { return };
        self.shared.queue().ending = true;
        self.shared.changed.notify_all();
        if self.shared.wait(limit, |queue| queue.ended) {
            let _ = thread.join();
        } else {
            tracing::warn!(
                standby = self.standby,
                "steering the host's switch: the kernel does not answer; not waited for any longer"
            );
        }
    }
}

impl Drop for SteeringThread {
    fn drop(&mut self) {
        // Of a standby that is deleted nobody waits for the hook.
        self.end(self.patience);
    }
}

impl Shared {
    fn steering(&self) -> MutexGuard<'_, Option<Steering>> {
        self.steering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next order; `None` at the end.
    fn next(&self) -> Option<(u64, Order, Option<Vec<u16>>)> {
        let mut queue = self.queue();
        loop {
            if let Some((number, order)) = queue.orders.pop_front() {
                return Some((number, order, queue.vlans.take()));
            }
            if queue.ending {
                return None;
            }
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self) {
        while let Some((number, order, vlans)) = self.next() {
            let mut steering = self.steering();
            if let Some(steering) = steering.as_mut() {
                if let Some(vlans) = vlans {
                    steering.set_vlans(vlans);
                }
                carry_out(steering, order);
            }
            let view = steering.as_ref().map(View::of);
            drop(steering);
            let mut queue = self.queue();
            queue.done = number;
            queue.late = false;
            if let Some(view) = view {
                queue.view = view;
            }
            self.changed.notify_all();
        }
        let with_hook = self.queue().with_hook;
        if let Some(mut steering) = self.steering().take().filter(|_| with_hook) {
            steering.finish();
        }
    }
}

/// What fails is logged and told by itself.
fn carry_out(steering: &mut Steering, order: Order) {
    match order {
        Order::ArmPrimary => drop(steering.arm_primary()),
        Order::ToBoth(reason) => drop(steering.to_both(reason)),
        Order::ToPrimary(reason) => drop(steering.to_primary(reason)),
        Order::ToStandby(reason) => drop(steering.stay_at_standby(reason)),
        Order::GuestLeft(reason) => drop(steering.guest_left(reason)),
        Order::PrimaryDeleted => drop(steering.primary_deleted()),
        Order::Restore(reason) => drop(steering.restore(reason)),
        Order::LookFor {
            primary,
            vf_address,
        } => {
            if let Err(error) = steering.look_for(primary, vf_address) {
                let standby = &steering.wanted().standby;
                tracing::warn!(standby, %error, "the primary's NIC cannot be looked for");
            }
        }
    }
}
