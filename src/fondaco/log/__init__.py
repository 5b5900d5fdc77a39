"""Log: topics of partitions of records with offsets; embedded segments, and the interface that every log has."""
