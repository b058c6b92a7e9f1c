//! The signal that takes a vCPU thread out of the guest.
//!
//! A signal that arrives just before `KVM_RUN` would be lost; so its handler sets the `immediate_exit` flag of
//! the thread's own `kvm_run` page, and the next `KVM_RUN` returns at once (Documentation/virt/kvm/api.rst,
//! section 5).

use std::cell::Cell;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;

thread_local! {
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

#[allow(unsafe_code)]
extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: the pointer was set by this thread to a byte of its vCPU's kvm_run page and is cleared
        // before that page is unmapped; a store to an atomic is async-signal-safe.
        unsafe { (*flag).store(1, Ordering::SeqCst) };
    }
}

/// Installs the handler, once a process.
pub(crate) fn install() -> io::Result<()> {
    vmm_sys_util::signal::register_signal_handler(kick_signal(), on_kick)
        .map_err(|e| io::Error::from_raw_os_error(e.errno()))
}

/// Points the handler of the current thread at its vCPU's flag for as long as the value lives.
pub(crate) struct KickTarget(());

impl KickTarget {
    #[allow(unsafe_code)]
    pub(crate) fn new(run: &mut kvm_bindings::kvm_run) -> Self {
        let flag = ptr::from_mut(&mut run.immediate_exit);
        // SAFETY: the byte is valid, aligned, lives as long as the page, and is shared with the kernel alone.
        let flag = unsafe { AtomicU8::from_ptr(flag) };
        IMMEDIATE_EXIT.set(flag);
        Self(())
    }
}

impl Drop for KickTarget {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null());
    }
}

/// Kicks the thread out of `KVM_RUN`, or keeps it from entering once.
#[allow(unsafe_code)]
pub(crate) fn kick<T>(thread: &JoinHandle<T>) {
    // SAFETY: the handle keeps the thread's id valid until it is joined.
    let error = unsafe { libc::pthread_kill(thread.as_pthread_t(), kick_signal()) };
    if error != 0 {
        tracing::debug!(error, "a vCPU thread is gone already");
    }
}
