//! The table of connections: found by their ports, served in turn.

use std::collections::{HashMap, VecDeque};

use super::connection::{Connection, Ports};
use super::token::{GENERATIONS, Occupant};

/// The first port that connections of the host come from; the ones below belong to services, as with TCP.
const FIRST_PORT: u32 = 1024;

/// The last port that connections of the host come from. The one above is `VMADDR_PORT_ANY`.
const LAST_PORT: u32 = u32::MAX - 1;

/// A place in the table, kept when its connection is over.
#[derive(Debug, Default)]
struct Place {
    connection: Option<Connection>,
    generation: u16,
    /// The place waits in `Connections::waiting`. It belongs to the place and not to the connection, so that no place
    /// waits twice however often its connection changes.
    waits: bool,
}

/// All connections of the device.
#[derive(Debug)]
pub(super) struct Connections {
    limit: usize,
    places: Vec<Place>,
    free: Vec<u16>,
    by_ports: HashMap<Ports, u16>,
    /// Places that have something for the guest, the one that waits longest first: each gives one packet and goes to the
    /// back, so a busy connection costs the others one packet.
    waiting: VecDeque<u16>,
    next_port: u32,
    next_generation: u16,
}

impl Connections {
    /// An empty table for at most `limit` connections, 65,536 at most.
    pub(super) fn new(limit: usize) -> Connections {
        Connections {
            limit,
            places: Vec::new(),
            free: Vec::new(),
            by_ports: HashMap::new(),
            waiting: VecDeque::new(),
            next_port: FIRST_PORT,
            next_generation: 0,
        }
    }

    /// How many connections there are, lingering ones included.
    pub(super) fn len(&self) -> usize {
        self.places.len().saturating_sub(self.free.len())
    }

    /// Whether there is no place for another connection.
    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// Adds a connection and returns its place, unless the table is full.
    pub(super) fn insert(&mut self, connection: Connection) -> Option<u16> {
        if self.is_full() {
            return None;
        }
        let place = match self.free.pop() {
            Some(place) => place,
            None => {
                let place = u16::try_from(self.places.len()).ok()?;
                self.places.push(Place::default());
                place
            }
        };
        self.by_ports.insert(connection.ports(), place);
        let entry = self.places.get_mut(usize::from(place))?;
        entry.connection = Some(connection);
        entry.generation = self.next_generation;
        self.next_generation = self.next_generation.wrapping_add(1) % GENERATIONS;
        Some(place)
    }

    /// The connection at `place` for a token.
    pub(super) fn occupant(&self, place: u16) -> Option<Occupant> {
        let entry = self.places.get(usize::from(place))?;
        entry.connection.as_ref()?;
        Some(Occupant {
            place,
            generation: entry.generation,
        })
    }

    /// The place of the connection with these ports.
    pub(super) fn find(&self, ports: Ports) -> Option<u16> {
        self.by_ports.get(&ports).copied()
    }

    /// The connection at a place.
    pub(super) fn get_mut(&mut self, place: u16) -> Option<&mut Connection> {
        self.places.get_mut(usize::from(place))?.connection.as_mut()
    }

    /// The guest forgot the connection: its ports may be used again.
    pub(super) fn release_ports(&mut self, place: u16) {
        let Some(ports) = self.get_mut(place).map(|connection| connection.ports()) else {
            return;
        };
        if self.find(ports) == Some(place) {
            self.by_ports.remove(&ports);
        }
    }

    /// Takes a connection out of the table.
    pub(super) fn remove(&mut self, place: u16) -> Option<Connection> {
        self.release_ports(place);
        let connection = self.places.get_mut(usize::from(place))?.connection.take()?;
        self.free.push(place);
        Some(connection)
    }

    /// Takes all connections out of the table.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Connection> + use<> {
        self.free.clear();
        self.by_ports.clear();
        self.waiting.clear();
        std::mem::take(&mut self.places)
            .into_iter()
            .filter_map(|place| place.connection)
    }

    /// The connections with their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &Connection)> {
        (0..=u16::MAX)
            .zip(&self.places)
            .filter_map(|(index, place)| Some((index, place.connection.as_ref()?)))
    }

    /// The connection at `place` has something for the guest: it gets its turn.
    pub(super) fn enqueue(&mut self, place: u16) {
        if let Some(entry) = self.places.get_mut(usize::from(place))
            && !entry.waits
        {
            entry.waits = true;
            self.waiting.push_back(place);
        }
    }

    /// How many places wait for their turn.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a connection has something for the guest.
    pub(super) fn has_output(&mut self) -> bool {
        while let Some(&place) = self.waiting.front() {
            if self
                .get_mut(place)
                .is_some_and(|connection| connection.has_output())
            {
                return true;
            }
            self.dequeue();
        }
        false
    }

    /// The place whose turn it is. It waits no more; enqueue it again when it has more to give.
    pub(super) fn dequeue(&mut self) -> Option<u16> {
        let place = self.waiting.pop_front()?;
        if let Some(entry) = self.places.get_mut(usize::from(place)) {
            entry.waits = false;
        }
        Some(place)
    }

    /// A port of the host for a connection to `guest`, a port of the guest. Ports are used in turn, so one comes back late.
    pub(super) fn choose_port(&mut self, guest: u32) -> Ports {
        loop {
            let ports = Ports {
                host: self.next_port,
                guest,
            };
            self.next_port = match self.next_port {
                LAST_PORT => FIRST_PORT,
                port => port.saturating_add(1),
            };
            // Ends, because there are far more ports than places in the table.
            if self.find(ports).is_none() {
                return ports;
            }
        }
    }
}

#[cfg(test)]
impl Connections {
    /// All ports but the last were given away.
    pub(super) fn skip_to_last_port(&mut self) {
        self.next_port = LAST_PORT;
    }
}
