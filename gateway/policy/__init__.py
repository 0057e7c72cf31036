"""Pure decisions about deliveries, a batch at a time: who still gets it, who does not and why, who waits."""
