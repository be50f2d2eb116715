"""Work on several machines, by Ray: the only part of ladle that imports it, and only when used."""

from ladle.cluster.connect import Cluster, Node, connected
from ladle.cluster.evaluation import Settings, Size, Workers

__all__ = ["Cluster", "Node", "Settings", "Size", "Workers", "connected"]
