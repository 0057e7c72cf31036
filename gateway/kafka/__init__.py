"""The queue over many machines: Apache Kafka keeps the work, each machine mirrors what it has in hand. docs/kafka.md"""
