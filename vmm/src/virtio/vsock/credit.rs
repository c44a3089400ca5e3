//! Flow control, section 5.10.6.3 of the virtio specification 1.2: how much either side may send.
//!
//! Both counters of a direction count the bytes since the connection began, modulo 2^32; only their difference means
//! something. It never exceeds the size of a buffer, a u32, so it is never ambiguous.

/// Receive buffer that is granted to each of the first `WIDE_CONNECTIONS` connections. Linux sends packets of up to 64 KiB:
/// four of them are under way before the sender has to wait for news, and it equals the default buffer of a Linux socket.
const WIDE_WINDOW: u32 = 256 << 10;

/// Receive buffer that is granted to connections beyond the first `WIDE_CONNECTIONS`.
const NARROW_WINDOW: u32 = 32 << 10;

/// How many connections get the wide window. A guest that fills all windows of a full table, while no host program reads,
/// makes the monitor keep 64 x 256 KiB + 959 x 32 KiB = 46 MiB of data, in memory that grows by doubling.
const WIDE_CONNECTIONS: usize = 64;

/// The receive buffer for a new connection when `existing` connections are there already, in bytes.
pub(super) fn receive_window(existing: usize) -> u32 {
    if existing < WIDE_CONNECTIONS {
        WIDE_WINDOW
    } else {
        NARROW_WINDOW
    }
}

/// From the guest to the host: what the guest was promised.
#[derive(Debug)]
pub(super) struct ReceiveCredit {
    window: u32,
    forwarded: u32,
    announced: u32,
}

impl ReceiveCredit {
    /// Promises a buffer of `window` bytes.
    pub(super) fn new(window: u32) -> ReceiveCredit {
        ReceiveCredit {
            window,
            forwarded: 0,
            announced: 0,
        }
    }

    /// Bytes that may lie in the buffer at most.
    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// `bytes` left the buffer. No more than the window can be in it, so the saturation is never seen.
    pub(super) fn forward(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.forwarded = self.forwarded.wrapping_add(bytes);
    }

    /// `buf_alloc` and `fwd_cnt` for a packet that is about to be given to the guest.
    pub(super) fn announce(&mut self) -> (u32, u32) {
        self.announced = self.forwarded;
        (self.window, self.forwarded)
    }

    /// Whether the guest should be told without waiting for a packet that goes its way: it counts on less than half of the
    /// window although more is free. A guest that knows of no free byte at all is always told when the buffer empties.
    pub(super) fn is_update_due(&self) -> bool {
        self.forwarded.wrapping_sub(self.announced) >= self.window / 2
    }
}

/// From the host to the guest: what the guest granted.
#[derive(Debug)]
pub(super) struct SendCredit {
    sent: u32,
    window: u32,
    forwarded: u32,
}

impl SendCredit {
    /// Nothing granted and nothing sent.
    pub(super) fn new() -> SendCredit {
        SendCredit {
            sent: 0,
            window: 0,
            forwarded: 0,
        }
    }

    /// Takes over the grant in a packet of the guest.
    ///
    /// The window is believed whatever it is: nothing is allocated after it, data goes only into buffers that the guest
    /// supplied. The counter is believed only when it confirms bytes that are under way. Anything else is either older
    /// than the last one, because packets of two vCPUs overtook each other, or absurd.
    pub(super) fn update(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.window = buf_alloc;
        if self.sent.wrapping_sub(fwd_cnt) <= self.under_way() {
            self.forwarded = fwd_cnt;
        }
    }

    /// Bytes that may be sent now.
    pub(super) fn available(&self) -> u32 {
        self.window.saturating_sub(self.under_way())
    }

    /// `bytes`, at most `available()`, were sent.
    pub(super) fn spend(&mut self, bytes: u32) {
        self.sent = self.sent.wrapping_add(bytes);
    }

    fn under_way(&self) -> u32 {
        self.sent.wrapping_sub(self.forwarded)
    }
}
