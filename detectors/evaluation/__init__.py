"""AP and AR with and without NMS, from candidates kept once; why they differ; how surely."""
