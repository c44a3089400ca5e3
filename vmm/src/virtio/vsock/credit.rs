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
    received: u32,
    forwarded: u32,
    announced: u32,
    /// What the guest could send when it was last granted something.
    granted: u32,
}

impl ReceiveCredit {
    /// Promises a buffer of `window` bytes.
    pub(super) fn new(window: u32) -> ReceiveCredit {
        ReceiveCredit {
            window,
            received: 0,
            forwarded: 0,
            announced: 0,
            granted: window,
        }
    }

    /// Bytes that may lie in the buffer at most.
    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// `bytes` arrived in the buffer, no more than the window.
    pub(super) fn receive(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.received = self.received.wrapping_add(bytes);
    }

    /// `bytes` left the buffer. No more than the window can be in it, so the saturation is never seen.
    pub(super) fn forward(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.forwarded = self.forwarded.wrapping_add(bytes);
    }

    /// Grants as much of the free room as lets the guest send `credit` bytes. What it was granted before it keeps.
    pub(super) fn grant(&mut self, credit: u32) {
        let before = self.credit();
        let more = credit.saturating_sub(before).min(self.unannounced());
        self.announced = self.announced.wrapping_add(more);
        self.granted = before.saturating_add(more);
    }

    /// `buf_alloc` and `fwd_cnt` for a packet.
    pub(super) fn announcement(&self) -> (u32, u32) {
        (self.window, self.announced)
    }

    /// Whether the guest should be granted more: half of the window is free without its knowledge, and it used half of what it was
    /// granted last. A guest that knows of no free byte at all is granted some when the buffer empties.
    pub(super) fn is_grant_due(&self) -> bool {
        self.unannounced() >= self.window / 2 && self.credit() <= self.granted / 2
    }

    /// Bytes that the guest may send. It may use room that it was not told of, then there are none.
    fn credit(&self) -> u32 {
        let used = self.received.wrapping_sub(self.announced);
        self.window.saturating_sub(used)
    }

    /// Bytes of free room that the guest does not know of.
    fn unannounced(&self) -> u32 {
        self.forwarded.wrapping_sub(self.announced)
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
