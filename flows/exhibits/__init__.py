"""What a report shows of runs as moving skeletons: embedding maps, nearest neighbours, masked and predicted."""

from flows.exhibits.gather import gather

__all__ = ["gather"]
