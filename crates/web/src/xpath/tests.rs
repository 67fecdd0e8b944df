//! Rules of the recommendation, one after the other.
