"""What became of each delivery: the words in `states`, reading and retention in `store`."""
